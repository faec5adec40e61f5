"""An endpoint that answers like OpenAI's chat completions, on a port of this machine."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOW = (("retry-after-ms", "1"),)  # what the client waits before it tries again


class Endpoint:
    """Answers like OpenAI's chat completions; `behave(number, request)` gives status, body and headers of a request."""

    def __init__(self, behave=None, seconds=0.0):
        self.requests, self.most_at_once, self.lock = [], 0, threading.Lock()
        self.behave, self.seconds, self.now = behave or (lambda number, request: None), seconds, 0

    @contextmanager
    def serving(self):
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    endpoint.requests.append((self.path, headers, request))
                    number = len(endpoint.requests)
                    endpoint.now += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.now)
                time.sleep(endpoint.seconds)
                status, body, headers = endpoint.behave(number, request) or (
                    200,
                    completion(verdict(request)),
                    (),
                )
                with endpoint.lock:
                    endpoint.now -= 1
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (
                    ("Content-Type", "application/json"),
                    ("Content-Length", len(content)),
                    *headers,
                ):
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def completion(content, usage=(100, 2)):
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
    }  # fmt: skip


def verdict(request):
    """Yes where both answers begin with the same letter."""
    asked = request["messages"][-1]["content"]
    first, second = (asked.split(f"<{tag}>\n")[1][0] for tag in ("first", "second"))
    return "yes" if first == second else "No."
