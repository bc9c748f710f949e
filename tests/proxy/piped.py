"""A server on pipes, of the standard library alone: it speaks every revision, and misbehaves as it
is told by the tool that is called, or at once by its first argument."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

MODE = sys.argv[1] if len(sys.argv) > 1 else ""
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
lock = threading.Lock()
calls: list[object] = []
cancelled: list[object] = []
answers: dict[object, object] = {}
answered = threading.Condition()


def write(text: str) -> None:
    with lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def send(**message: object) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}))


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def answer(number: object, text: str) -> None:
    send(id=number, result={"content": [{"type": "text", "text": text}]})


def call(message: dict) -> None:
    number, params = message["id"], message["params"]
    arguments = params.get("arguments", {})
    token = params.get("_meta", {}).get("progressToken")
    match params["name"]:
        case "count":
            for i in range(1, arguments["n"] + 1):
                time.sleep(arguments.get("delay", 0))
                send(
                    method="notifications/progress", params={"progressToken": token, "progress": i}
                )
            answer(number, f"counted {arguments['n']}")
        case "pid":
            answer(number, f"{os.getpid()} {len(calls)}")
        case "silent":
            note(f"silent {number}")
        case "exit":
            os._exit(3)
        case "garbage":
            write("this is no message")
            write('{"jsonrpc": "2.0", "id": 1e400, "result": {}}')
            write("[1, 2]")
            answer(number, "after garbage")
        case "flood":
            for i in range(arguments["lines"]):
                note(f"line {i} of a flood")
            answer(number, "after a flood")
        case "secret":
            note(f"the token is {os.environ['TOKEN']}, Authorization: Bearer abcdef")
            answer(number, "told")
        case "environment":
            answer(number, json.dumps([sorted(os.environ), str(Path.cwd())]))
        case "huge":
            answer(number, "x" * arguments["size"])
        case "exact":
            exact = '{"n":1e400,"s":"\\ud800","i":' + str(10**40)
            write('{"jsonrpc":"2.0","result":' + exact + '},"id":' + str(number) + "}")
        case "ask":
            send(id="q1", method="elicitation/create", params={"message": "who?"})
            with answered:
                answered.wait_for(lambda: "q1" in answers, 20)
            answer(number, json.dumps(answers.pop("q1")))
        case "change":
            send(method="notifications/tools/list_changed")
            answer(number, "changed")
        case "log":
            send(method="notifications/message", params={"level": "info", "data": "hello"})
            answer(number, "logged")
        case "cancelled":
            answer(number, json.dumps(cancelled))
        case "fork":
            # One that does not end by itself, nor when it is asked to.
            if (heir := os.fork()) == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(1000)
            answer(number, str(heir))


def take(message: dict) -> None:
    number = message.get("id")
    match message.get("method"):
        case "initialize":
            if MODE == "refuse":
                send(id=number, error={"code": -32000, "message": "not you"})
                return
            version = message["params"]["protocolVersion"]
            info = {"name": "piped", "version": "1"}
            result = {"protocolVersion": version, "capabilities": {}, "serverInfo": info}
            send(id=number, result=result)
        case "server/discover":
            versions = ["2026-07-28"]
            send(id=number, result={"supportedVersions": versions, "resultType": "complete"})
        case "subscriptions/listen":
            meta = {"_meta": {SUBSCRIPTION: number}}
            send(method="notifications/subscriptions/acknowledged", params=meta)
            send(method="notifications/tools/list_changed", params=meta)
        case "tools/call":
            calls.append(number)
            threading.Thread(target=call, args=(message,), daemon=True).start()
        case "notifications/cancelled":
            cancelled.append(message["params"]["requestId"])
            note(f"cancelled {message['params']['requestId']}")
        case None:
            with answered:
                answers[number] = message.get("result") or message.get("error")
                answered.notify_all()
        case _ if number is not None:
            send(id=number, error={"code": -32601, "message": "Method not found"})


def main() -> None:
    match MODE:
        case "exit":
            note("I cannot start")
            sys.exit(7)
        case "mute":
            time.sleep(1000)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        take(json.loads(line))
        if MODE == "unread" and '"tools/call"' in line:
            time.sleep(1000)
    while MODE == "stubborn":
        time.sleep(1)


main()
