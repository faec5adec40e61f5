"""An engine in the place of vLLM, of a model loaded a second time, that can be made to fail as real ones do."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from polychromic.models.decoding import decode_samples, decoding
from polychromic.models.loading import load_language_model
from polychromic.records import SamplingParameters
from polychromic.sampling.vllm.engine import Draw, EngineRestartedError, Request


class ModelEngine:
    """Serves a base and adapters from the folders that it is given.

    ignores: answers for the base whatever adapter is asked for; keeps: for the first that it was given after the trial;
    scale: applies adapters at this strength; restarts: draws after which it comes back empty.
    """

    place = "sampling engine vllm"

    def __init__(self, settings, *, ignores=False, keeps=False, scale=1.0, restarts=()):
        self.settings = settings
        self.ignores, self.keeps, self.scale = ignores, keeps, scale
        self.restarts = set(restarts)
        self.base = load_language_model(settings, trainable=False)
        self.adapters, self.numbers, self.forgotten = {}, [], []
        self.draws = 0
        self.asked = []

    def load_adapter(self, name, number, folder):
        assert number not in self.numbers, "a number that the engine has seen before"
        assert Path(folder, "adapter_model.safetensors").is_file()
        self.numbers.append(number)
        model = load_language_model(self.settings, adapter=Path(folder), trainable=False)
        if self.scale != 1.0:
            assert isinstance(model.model, PeftModel)
            for module in model.model.modules():
                if isinstance(module, LoraLayer):
                    module.scaling = {key: value * self.scale for key, value in module.scaling.items()}
        self.adapters[name] = model

    def forget_adapter(self, name):
        self.forgotten.append(name)
        del self.adapters[name]

    def draw(self, requests, keys, adapter):
        self.draws += 1
        self.asked.append((list(requests), dict(keys), adapter))
        if self.draws in self.restarts:
            self.adapters.clear()
            raise EngineRestartedError
        model = self.base if adapter is None or self.ignores else self.adapters[adapter]
        if self.keeps and self.kept is not None and adapter is not None:
            model = self.kept
        return [self._draw(model, request, keys) for request in requests]

    kept = None

    def keep(self):
        """Answers for the adapter that it has now from here on."""
        [self.kept] = self.adapters.values()

    def _draw(self, model, request: Request, keys):
        parameters = SamplingParameters(
            keys["temperature"], keys["top_p"], keys["min_p"], max_new_tokens=keys["max_tokens"]
        )
        generator = torch.Generator().manual_seed(request.seed)
        uniforms = torch.rand(keys["n"], keys["max_tokens"], dtype=torch.float64, generator=generator)
        with decoding(model):
            rows = decode_samples(model, [request.prompt_ids], keys["n"], parameters, uniforms)
        return [Draw(tuple(row.token_ids), tuple(row.logprobs)) for row in rows]

    def close(self):
        self.adapters.clear()


class _Handler(BaseHTTPRequestHandler):
    """The endpoints of `vllm serve` that are used, as version 0.32 answers them."""

    def do_GET(self):
        state = self.server.state
        answers = {
            "/version": {"version": state.version},
            "/health": {},
            "/v1/models": {"data": [{"id": state.model, "root": state.root, "parent": None}, *state.listed()]},
        }
        self._answer(200, answers[self.path]) if self.path in answers else self._answer(404, {"detail": "Not Found"})

    def do_POST(self):
        state = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state.bodies.append((self.path, body))
        if state.refusals.get(self.path):
            self._answer(*state.refusals[self.path])
        elif self.path == "/v1/load_lora_adapter":
            with state.lock:
                state.engine.load_adapter(body["lora_name"], len(state.engine.numbers) + 1, body["lora_path"])
            self._answer(200, None)
        elif self.path == "/v1/unload_lora_adapter":
            state.engine.forget_adapter(body["lora_name"])
            self._answer(200, None)
        else:
            self._complete(state, body)

    def _complete(self, state, body):
        name = body["model"] if body["model"] != state.model else None
        if name is not None and name not in state.engine.adapters:
            self._answer(404, {"error": {"message": f"The model `{name}` does not exist."}})
            return
        with state.lock:
            [draws] = state.engine.draw([Request(tuple(body["prompt"]), body["seed"])], body, name)
        choices = [
            {
                "index": index,
                "text": "",
                "token_ids": draw.token_ids,
                "logprobs": {"token_logprobs": draw.logprobs},
            }
            for index, draw in enumerate(draws)
        ]
        self._answer(200, {"choices": choices[::-1]})

    def _answer(self, status, body):
        content = b"Success" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class ServerState:
    def __init__(self, engine, model="tiny", root=None, version="0.32.0"):
        self.engine, self.model, self.root, self.version = engine, model, root or model, version
        self.bodies, self.refusals, self.lock = [], {}, threading.Lock()

    def listed(self):
        return [{"id": name, "root": "x", "parent": self.model} for name in self.engine.adapters]


@contextmanager
def serving(state, port=0):
    """Serves within the block; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads, server.state = True, state
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
