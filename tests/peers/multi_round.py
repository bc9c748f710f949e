"""The conformance suite's tools that answer with `input_required` (2026-07-28), and its schema."""

import json
from typing import Any

from mcp import types
from mcp.server.mcpserver import Context, MCPServer

FOR_THE_SUITE = "asked for by the conformance suite"

_ADDRESS = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
}
_CONTACT = {"const": "phone"}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": _ADDRESS},
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": _CONTACT}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
_Answer = str | types.InputRequiredResult


def ask(message: str, name: str, kind: str = "string") -> types.ElicitRequest:
    """A request for one field of input."""
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    params = types.ElicitRequestFormParams(message=message, requested_schema=schema)
    return types.ElicitRequest(params=params)


def _sample(text: str) -> types.CreateMessageRequest:
    content = types.TextContent(type="text", text=text)
    message = types.SamplingMessage(role="user", content=content)
    params = types.CreateMessageRequestParams(messages=[message], max_tokens=50)
    return types.CreateMessageRequest(params=params)


def _name() -> types.ElicitRequest:
    return ask("What is your name?", "name")


def _field(answer: Any, name: str) -> Any:
    content = answer.content if isinstance(answer, types.ElicitResult) else None
    return (content or {}).get(name)


def _missing(
    ctx: Context, state: str | None = None, /, **requests: Any
) -> types.InputRequiredResult | None:
    """The `input_required` result, unless every answer is here."""
    if set(requests) <= set(ctx.input_responses or {}) and state in (None, ctx.request_state):
        return None
    return types.InputRequiredResult(input_requests=requests, request_state=state)


def _single_round(server: MCPServer) -> None:
    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_elicitation(ctx: Context) -> _Answer:
        if missing := _missing(ctx, user_name=_name()):
            return missing
        return f"Hello, {_field((ctx.input_responses or {})['user_name'], 'name')}!"

    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_sampling(ctx: Context) -> _Answer:
        question = _sample("What is the capital of France?")
        return _missing(ctx, capital_question=question) or "The model has answered."

    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_list_roots(ctx: Context) -> _Answer:
        return _missing(ctx, client_roots=types.ListRootsRequest()) or "The roots are here."

    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_request_state(ctx: Context) -> _Answer:
        confirm = ask("Please confirm", "ok", "boolean")
        return _missing(ctx, "the state", confirm=confirm) or "state-ok"

    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_multiple_inputs(ctx: Context) -> _Answer:
        greeting, roots = _sample("Generate a greeting"), types.ListRootsRequest()
        missing = _missing(ctx, "several", user_name=_name(), greeting=greeting, client_roots=roots)
        return missing or "All inputs are here."

    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_tampered_state(ctx: Context) -> _Answer:
        if ctx.request_state is None:
            confirm = ask("Please confirm", "ok", "boolean")
            return types.InputRequiredResult(
                input_requests={"confirm": confirm}, request_state="first"
            )
        return f"state-ok: {ctx.request_state}"

    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_capabilities(ctx: Context) -> types.InputRequiredResult:
        declared = ctx.client_capabilities
        requests: dict[str, Any] = {}
        if declared is None or declared.sampling is not None:
            requests["sample"] = _sample("Say hello")
        if declared is None or declared.elicitation is not None:
            requests["ask"] = _name()
        return types.InputRequiredResult(input_requests=requests, request_state="gated")


def _several_rounds(server: MCPServer) -> None:
    @server.tool(description=FOR_THE_SUITE)
    async def test_input_required_result_multi_round(ctx: Context) -> _Answer:
        state = json.loads(ctx.request_state or "{}")
        answers = ctx.input_responses or {}
        if state.get("round") == 1 and "step1" in answers:
            known = json.dumps({"round": 2, "name": _field(answers["step1"], "name")})
            color = ask("Step 2: What is your favorite color?", "color")
            return types.InputRequiredResult(input_requests={"step2": color}, request_state=known)
        if state.get("round") == 2 and "step2" in answers:
            return f"{state['name']} likes {_field(answers['step2'], 'color')}"
        first = json.dumps({"round": 1})
        return types.InputRequiredResult(input_requests={"step1": _name()}, request_state=first)


def _schema_tool(server: MCPServer) -> None:
    @server.tool(description=FOR_THE_SUITE)
    def json_schema_2020_12_tool() -> str:
        return "the schema is what is tested"

    # The SDK derives a schema from the signature and offers no way to give one.
    server._tool_manager._tools["json_schema_2020_12_tool"].parameters = SCHEMA


def add_multi_round_tools(server: MCPServer) -> None:
    """Register everything of this file."""
    for part in (_single_round, _several_rounds, _schema_tool):
        part(server)
