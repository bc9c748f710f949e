"""A server with what the official conformance suite asks for: names and texts are the suite's.

`uvicorn --factory tests.peers.everything:app`; with `PEER_DATABASE` it stands behind the
middleware. Nothing is answered differently then, but that there are tasks:
`tests.peers.conformance` compares the two.
"""

import asyncio
import base64
import io
import json
import os
import struct
import wave
import zlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from mcp import types
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, Field, create_model

from tests.peers.long_tools import TASKS_AFTER, add_long_tools
from tests.peers.multi_round import FOR_THE_SUITE, add_multi_round_tools, ask

App = Callable[..., Awaitable[None]]

# The suite drops the connection after 10 s; only a call that lasts longer is resumed.
_LONGER_THAN_THE_SUITE_WAITS = 12.0


def _silence() -> str:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(8000)
        writer.writeframes(b"\x80")
    return base64.b64encode(sound.getvalue()).decode()


def _pixel() -> bytes:
    """A PNG of one grey pixel."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), b"IDAT", b"IEND")
    image = b"\x89PNG\r\n\x1a\n"
    for chunk in chunks:
        body = chunk + zlib.compress(b"\x00\x80") if chunk == b"IDAT" else chunk
        image += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return image


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def _image() -> types.ImageContent:
    return types.ImageContent(
        type="image", data=base64.b64encode(_pixel()).decode(), mime_type="image/png"
    )


def _embedded(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    resource = types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return types.EmbeddedResource(type="resource", resource=resource)


def _content_tools(server: MCPServer) -> None:
    @server.tool(description=FOR_THE_SUITE)
    def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool(description=FOR_THE_SUITE)
    def test_image_content() -> list[types.ImageContent]:
        return [_image()]

    @server.tool(description=FOR_THE_SUITE)
    def test_audio_content() -> list[types.AudioContent]:
        return [types.AudioContent(type="audio", data=_silence(), mime_type="audio/wav")]

    @server.tool(description=FOR_THE_SUITE)
    def test_embedded_resource() -> list[types.EmbeddedResource]:
        text = "This is an embedded resource content."
        return [_embedded("test://embedded-resource", "text/plain", text)]

    @server.tool(description=FOR_THE_SUITE)
    def test_multiple_content_types() -> list[
        types.TextContent | types.ImageContent | types.EmbeddedResource
    ]:
        data = json.dumps({"test": "data", "value": 123})
        mixed = _embedded("test://mixed-content-resource", "application/json", data)
        return [_text("Multiple content types test:"), _image(), mixed]

    @server.tool(description=FOR_THE_SUITE)
    def test_error_handling() -> str:
        raise RuntimeError("This tool intentionally returns an error for testing")


def _running_tools(server: MCPServer) -> None:
    @server.tool(description=FOR_THE_SUITE)
    async def test_tool_with_logging(ctx: Context) -> str:
        for step in ("execution started", "processing data", "execution completed"):
            await ctx.info(f"Tool {step}")  # type: ignore[deprecated,unused-ignore]
            await asyncio.sleep(0.05)
        return "Tool with logging executed successfully"

    @server.tool(description=FOR_THE_SUITE)
    async def test_tool_with_progress(ctx: Context) -> str:
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100, f"Completed step {done} of 100")
            await asyncio.sleep(0.05)
        return "all steps are completed"

    @server.tool(description=FOR_THE_SUITE)
    async def test_reconnection(ctx: Context) -> str:
        await ctx.report_progress(0, 1, "before the disconnect")
        await asyncio.sleep(_LONGER_THAN_THE_SUITE_WAITS)
        return "Reconnection test completed successfully. If you received this, the client resumed."


class _Answer(BaseModel):
    response: str = Field(description="User's response")


class _Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field("active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


def _choices(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


_OPTIONS = [f"option{number}" for number in (1, 2, 3)]
_TITLED: list[Any] = [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]


# The fields have the suite's names, which no class body of ours would have.
_Enums = create_model(
    "_Enums",
    untitledSingle=(str, _choices(enum=_OPTIONS)),
    titledSingle=(str, _choices(oneOf=_TITLED)),
    legacyEnum=(str, _choices(enum=_OPTIONS, enumNames=["One", "Two", "Three"])),
    untitledMulti=(list[str], _choices(items={"type": "string", "enum": _OPTIONS})),
    titledMulti=(list[str], _choices(items={"anyOf": _TITLED})),
)


def _asking_tools(server: MCPServer) -> None:
    async def elicit(ctx: Context, message: str, schema: type[BaseModel]) -> str:
        answer = await ctx.elicit(message=message, schema=schema)
        content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
        return f"action={answer.action}, content={content}"

    @server.tool(description=FOR_THE_SUITE)
    async def test_sampling(prompt: str, ctx: Context) -> str:
        message = types.SamplingMessage(role="user", content=_text(prompt))
        result = await ctx.session.create_message(  # type: ignore[deprecated,unused-ignore]
            messages=[message], max_tokens=100, related_request_id=ctx.request_id
        )
        said = result.content.text if isinstance(result.content, types.TextContent) else "nothing"
        return f"LLM response: {said}"

    @server.tool(description=FOR_THE_SUITE)
    async def test_elicitation(message: str, ctx: Context) -> str:
        return "User response: " + await elicit(ctx, message, _Answer)

    @server.tool(description=FOR_THE_SUITE)
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        return "Elicitation completed: " + await elicit(ctx, "Please review", _Defaults)

    @server.tool(description=FOR_THE_SUITE)
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        return "Elicitation completed: " + await elicit(ctx, "Please choose", _Enums)


def _header_and_list_tools(server: MCPServer) -> None:
    mirrored = Field(description="also a header", json_schema_extra={"x-mcp-header": "Region"})

    @server.tool(description=FOR_THE_SUITE)
    def test_x_mcp_header(region: Annotated[str, mirrored] = "none") -> str:
        return region

    @server.tool(description=FOR_THE_SUITE)
    async def test_missing_capability(ctx: Context) -> str:
        declared = ctx.session.client_capabilities
        if declared is None or declared.sampling is None:
            needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
            code = types.MISSING_REQUIRED_CLIENT_CAPABILITY
            raise MCPError(code=code, message="sampling is required", data=needed)
        return "sampling is there"

    def passing() -> str:
        return "here for a moment"

    @server.tool(description=FOR_THE_SUITE)
    async def test_trigger_tool_change(ctx: Context) -> str:
        server.add_tool(passing, name="test_dynamic_tool")
        server.remove_tool("test_dynamic_tool")
        await ctx.notify_tools_changed()
        return "tools changed"

    @server.tool(description=FOR_THE_SUITE)
    async def test_trigger_prompt_change(ctx: Context) -> str:
        server.add_prompt(Prompt.from_function(passing, name="test_dynamic_prompt"))
        server.remove_prompt("test_dynamic_prompt")
        await ctx.notify_prompts_changed()
        return "prompts changed"


def _resources(server: MCPServer) -> None:
    @server.resource("test://static-text")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary")
    def static_binary() -> bytes:
        return _pixel()

    @server.resource("test://template/{id}/data")
    def template(id: str) -> str:  # noqa: A002 - the template's name
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource")
    def watched() -> str:
        return "watched"


def _prompts(server: MCPServer) -> None:
    @server.prompt(description=FOR_THE_SUITE)
    def test_simple_prompt() -> list[UserMessage]:
        return [UserMessage(content=_text("This is a simple prompt for testing."))]

    @server.prompt(description=FOR_THE_SUITE)
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        text = f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"
        return [UserMessage(content=_text(text))]

    @server.prompt(description=FOR_THE_SUITE)
    def test_prompt_with_embedded_resource(
        resourceUri: str,  # noqa: N803 - the suite's name
    ) -> list[UserMessage]:
        resource = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        question = _text("Please process the embedded resource above.")
        return [UserMessage(content=resource), UserMessage(content=question)]

    @server.prompt(description=FOR_THE_SUITE)
    def test_prompt_with_image() -> list[UserMessage]:
        question = _text("Please analyze the image above.")
        return [UserMessage(content=_image()), UserMessage(content=question)]

    @server.prompt(description=FOR_THE_SUITE)
    async def test_input_required_result_prompt(
        ctx: Context,
    ) -> list[UserMessage] | types.InputRequiredResult:
        if "user_context" in (ctx.input_responses or {}):
            return [UserMessage(content=_text("the context is here"))]
        return types.InputRequiredResult(
            input_requests={"user_context": ask("Which context?", "context")}
        )


def _handlers(server: MCPServer) -> None:
    async def accept(ctx: Any, params: Any) -> types.EmptyResult:
        return types.EmptyResult()

    low = server._lowlevel_server
    low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, accept)
    low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, accept)
    low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, accept)

    @server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
    async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
        return types.Completion(values=[], total=0, has_more=False)


def app() -> App:
    """The application, behind the middleware when `PEER_DATABASE` names a file."""
    security = RequestStateSecurity(keys=[b"only for the conformance suite's own runs"])
    server = MCPServer("everything", log_level="WARNING", request_state_security=security)
    parts = (_content_tools, _running_tools, _asking_tools, _header_and_list_tools)
    more = (add_multi_round_tools, add_long_tools, _resources, _prompts, _handlers)
    for part in (*parts, *more):
        part(server)
    bare: App = server.streamable_http_app()
    if not (database := os.environ.get("PEER_DATABASE")):
        return bare
    from mcp_persist_middleware import PersistMiddleware

    url = f"sqlite+aiosqlite:///{database}"
    persisted: App = PersistMiddleware(bare, url=url, tasks_after=TASKS_AFTER)
    return persisted
