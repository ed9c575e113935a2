"""An nginx before a scripted upstream: HTTP/2 over TLS, which Python's library does not speak."""
import asyncio
import os
import signal
import socket

import bed
import procs

CONFIG = """\
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log error;
{user}
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  ssl_certificate {dir}/server.pem;
  ssl_certificate_key {dir}/server.key;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


class Nginx:
    def __init__(self, tools, folder, behind):
        self.tools, self.dir, self.port = tools, folder, procs.free_port()
        user = "user root;" if bed.root_flag() else ""
        with open(os.path.join(folder, "nginx.conf"), "w") as file:
            file.write(CONFIG.format(dir=folder, user=user, port=self.port, behind=behind))
        self.child = None

    async def start(self):
        self.child = procs.Child([self.tools["nginx"], "-c", os.path.join(self.dir, "nginx.conf"), "-p", self.dir, "-e", "stderr"],
                                 log=os.path.join(self.dir, "nginx.out"))
        for _ in range(500):
            await asyncio.sleep(0.02)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
        raise procs.Failed(f"nginx does not start: {self.child.last_words()}")

    def reload(self):
        os.kill(self.child.pid, signal.SIGHUP)

    async def restart(self):
        """SIGTERM ends it at once, with all connections."""
        await asyncio.get_running_loop().run_in_executor(None, self.child.stop)
        await self.start()
