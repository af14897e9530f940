"""The least agent that Harbor can run: it sends the conversation and runs the command that comes back, until it is told to finish."""
import json, os

import httpx
from harbor.agents.base import BaseAgent

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
         for name, properties in (("bash", {"command": {"type": "string"}}), ("submit", {}))]


class Shell(BaseAgent):
    @staticmethod
    def name():
        return "shell"

    def version(self):
        return "1"

    async def setup(self, environment):
        pass

    async def run(self, instruction, environment, context):
        messages = [{"role": "user", "content": instruction}]
        async with httpx.AsyncClient(timeout=600) as client:
            for _ in range(100):
                body = {"model": self.model_name, "messages": messages, "tools": TOOLS}
                reply = await client.post(os.environ["PEERS_URL"] + "/chat/completions", json=body)
                reply.raise_for_status()
                message = reply.json()["choices"][0]["message"]
                messages.append(message)
                for call in message["tool_calls"]:
                    if call["function"]["name"] == "submit":
                        (self.logs_dir / "messages.json").write_text(json.dumps(messages))
                        return
                    command = json.loads(call["function"]["arguments"])["command"]
                    result = await environment.exec(command, cwd="/testbed")
                    content = f"{result.stdout or ''}{result.stderr or ''}"
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
