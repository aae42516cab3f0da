"""What a request through the sidecar costs, beside other proxies, measured in one run on this machine: `make bench`.

docs/benchmark.md says how to read it. `run` walks the rounds; `cases` says what is measured; `peers`, `envoy` and `application` know how each program is
configured and started; `load` knows the two load generators; `processes` starts, pins, counts and ends; `results` is arithmetic and the table.
`instructions` counts these instead of seconds.
"""
