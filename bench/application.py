"""What is behind the proxies, on the load's core: it answers from memory, so that it takes less of that core than the load generator does."""

from __future__ import annotations

from pathlib import Path

from bench.cases import Plan
from bench.programs import nginx_configuration, program

APPLICATION_IDENTITY = "spiffe://cluster.local/ns/default/sa/app"


class Application:
    """nginx for HTTP/1.1, with mutual TLS or not, and HTTP/2; nghttpd for gRPC, whose answers end with trailers."""

    name = "application"

    def command(self, plan: Plan) -> list[str]:
        """The command to run in `plan.directory`; it answers on `plan.upstream_port`."""
        return self._nghttpd(plan) if plan.case.upstream == "grpc" else self._nginx(plan)

    def _nginx(self, plan: Plan) -> list[str]:
        case = plan.case
        tls = ""
        if case.mutual_tls:
            tls = f"ssl_certificate {plan.certificate}; ssl_certificate_key {plan.key}; ssl_client_certificate {plan.trust}; ssl_verify_client on;"
        listen = f"{plan.upstream_port}{' ssl' if case.mutual_tls else ''}{' http2' if case.upstream == 'h2' else ''}"
        server = f'server {{ listen 127.0.0.1:{listen}; {tls} location / {{ return 200 "{case.body.decode()}"; }} }}'
        path = plan.directory / "application.conf"
        path.write_text(nginx_configuration(plan.directory, "application", "off", server))
        return [program("nginx") or "nginx", "-e", "stderr", "-p", str(plan.directory), "-c", str(path)]

    def _nghttpd(self, plan: Plan) -> list[str]:
        content = plan.directory / "content" / plan.case.path.lstrip("/")
        content.parent.mkdir(parents=True)
        content.write_bytes(plan.case.body)
        types = plan.directory / "mime.types"
        types.write_text("application/grpc grpc\n")
        return [
            *(program("nghttpd") or "nghttpd", "--no-tls", "--address=127.0.0.1", f"--htdocs={plan.directory / 'content'}"),
            *(f"--mime-types-file={types}", "--no-content-length", "--trailer=grpc-status: 0", "--max-concurrent-streams=1000", str(plan.upstream_port)),
        ]


def write_message(plan: Plan) -> None:
    """The file that the load generator sends, if the case has one."""
    if plan.posted is not None:
        Path(plan.posted).write_bytes(plan.case.body)
