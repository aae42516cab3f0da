"""What the load generators' output means."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import load

GOOD = "Running 2s test @ http://127.0.0.1:1/\n\nBENCH requests=20000 duration_us=2000500 connect=0 read=0 write=0 status=0 timeout=0\n"


def rows(count: int, *, rate: float = load.RATE, status: int = 200, latency: int = 100) -> list[str]:
    """A log of h2load: one line for each answer."""
    return [f"{1_000_000 + round(index * 1e6 / rate)}\t{status}\t{latency + index % 10}\n" for index in range(count)]


def test_saturation_counts() -> None:
    """The line of the script gives requests and seconds, whatever else wrk prints."""
    assert load.parse_saturation(GOOD) == load.Saturation(20000, 2.0005)


@pytest.mark.parametrize("what", ["connect", "read", "write", "status", "timeout"])
def test_saturation_with_an_error_is_invalid(what: str) -> None:
    """A single failed request makes the run invalid, and the message names what failed."""
    with pytest.raises(load.InvalidRun, match=f"'{what}': 1"):
        load.parse_saturation(GOOD.replace(f"{what}=0", f"{what}=1"))


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", GOOD.replace("requests=20000", "requests=0")])
def test_saturation_without_answers_is_invalid(output: str) -> None:
    """Output without the script's line, or without a request in it, is no result."""
    with pytest.raises(load.InvalidRun):
        load.parse_saturation(output)


def test_saturation_takes_whole_seconds() -> None:
    """wrk refuses fractions; less than one second becomes one."""
    assert "--duration=1s" in load.saturating("wrk", "http://127.0.0.1:1/", 0.2)
    assert "--duration=3s" in load.saturating("wrk", "http://127.0.0.1:1/", 3)


def test_the_script_stands_beside_the_module() -> None:
    """The Lua script that prints the line is there under the name the command uses."""
    script = next(part for part in load.saturating("wrk", "http://127.0.0.1:1/", 1) if part.startswith("--script="))
    assert "BENCH requests=" in Path(script.removeprefix("--script=")).read_text()


def test_paced_rate_is_that_of_all_connections() -> None:
    """Each connection has its share of the rate, and the number of requests is what the duration holds, the start included."""
    command = load.paced("h2load", "http://127.0.0.1:1/", 2, Path("log"))
    assert f"--rps={load.RATE / load.CONNECTIONS}" in command
    assert f"--requests={round(load.RATE * (2 + load.SETTLE_SECONDS))}" in command


def test_paced_latencies_are_sorted_and_leave_the_start_out() -> None:
    """What began within the settling time does not count; the rest comes sorted."""
    lines = [line.replace("\t1", "\t9") if index < 300 else line for index, line in enumerate(rows(1300))]
    latencies = load.parse_paced(lines)
    assert latencies == sorted(latencies)
    assert len(latencies) == 1000
    assert latencies[0] == 100 and latencies[-1] == 109


@pytest.mark.parametrize(
    ("lines", "because"),
    [
        (rows(1300)[:-1] + rows(1300, status=503)[-1:], "503"),
        (rows(1300)[:-1] + rows(1300, status=-1)[-1:], "-1"),
        (rows(1300, rate=load.RATE * 0.9), "only 900 of 1000"),
        (rows(10), "too few"),
        ([], "too few"),
    ],
)
def test_paced_run_with_a_fault_is_invalid(lines: list[str], because: str) -> None:
    """An answer that is not 200, none at all, or a rate not reached makes the run invalid, and says why."""
    with pytest.raises(load.InvalidRun, match=because):
        load.parse_paced(lines)


def test_h2load_counts() -> None:
    """Successes in the time given; anything else makes the run invalid."""
    line = "requests: 9 total, 9 started, 9 done, {} succeeded, {} failed, 0 errored, 0 timeout\n"
    assert load.parse_saturation_h2("finished in 1s\n" + line.format(9, 0), 1) == load.Saturation(9, 1)
    for output in (line.format(8, 1), line.format(0, 0), "nothing"):
        with pytest.raises(load.InvalidRun):
            load.parse_saturation_h2(output, 1)
    assert "--h1" not in load.paced("h2load", "http://a/", 1, Path("log"), True)
    assert "--max-concurrent-streams=8" in load.saturating_h2("h2load", "http://a/", 1)


def test_a_counted_load_has_the_shape_of_full_load() -> None:
    """As many connections and streams, and not one request more than asked for."""
    command = load.counted("h2load", "http://a/", 500, True)
    assert "--requests=500" in command and f"--clients={load.CONNECTIONS // load.STREAMS}" in command
    assert "--h1" in load.counted("h2load", "http://a/", 500, False)


def test_a_posted_message_is_a_grpc_call() -> None:
    """h2load sends the file with the content type and the `te` that gRPC asks for, at full load and at the fixed rate."""
    for command in (
        load.saturating_h2("h2load", "http://a/", 1, Path("message")),
        load.paced("h2load", "http://a/", 1, Path("log"), True, Path("message")),
        load.counted("h2load", "http://a/", 1, True, Path("message")),
    ):
        assert {"--data=message", "--header=content-type: application/grpc", "--header=te: trailers"} <= set(command)
