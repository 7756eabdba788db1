"""Asks an OpenAI-style server through the router, and prints the answer as it comes.

python examples/llm_gateway/chat.py http://127.0.0.1:9000 "good morning"
"""

import json
import sys

import httpx


def main(gateway: str, text: str) -> None:
    asked = {"model": "mock", "stream": True, "messages": [{"role": "user", "content": text}]}
    with httpx.stream("POST", f"{gateway}/v1/chat/completions", json=asked, timeout=60) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            event = line.removeprefix("data: ")
            if event and event != "[DONE]":
                print(json.loads(event)["choices"][0]["delta"].get("content", ""), end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
