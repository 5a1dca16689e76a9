"""The collector `systemd` beside node_exporter's, on one host at one moment.

    tests/guest/run --system unit tests/guest/systemd_collector.py

Skips itself where /usr/bin/prometheus-node-exporter is not installed on the machine that runs the guest.
"""

import os
import re

PEER = "/usr/bin/prometheus-node-exporter"
# Counted while we ask, or moved by asking.
MOVING = ("node_systemd_unit_tasks_current", "node_systemd_timer_last_trigger_seconds")


def series(text: str) -> dict[str, str]:
    """Series of the collector, labels sorted."""
    found = {}
    for line in text.splitlines():
        if line.startswith("node_systemd_"):
            name, value = line.rsplit(" ", 1)
            family, _, labels = name.partition("{")
            found[family + ",".join(sorted(re.findall(r'\w+="(?:[^"\\]|\\.)*"', labels)))] = value
    return found


def heads(text: str) -> set[str]:
    """HELP and TYPE lines of the collector."""
    return {line for line in text.splitlines() if re.match(r"# (HELP|TYPE) node_systemd_", line)}


if not os.path.exists(PEER):
    print("skipped: systemd_collector (prometheus-node-exporter is not installed)")
else:
    machine.wait_for_unit("ci-runner-exporter.service", timeout=60)
    machine.copy_from_host(PEER, "/tmp/node_exporter")
    exclude = r".+\.(automount|device|mount|scope|slice)|ci-job-.+"
    machine.succeed(
        "chmod +x /tmp/node_exporter; systemd-run --unit=peer /tmp/node_exporter --web.listen-address=127.0.0.1:9190"
        " --collector.disable-defaults --collector.systemd --collector.systemd.enable-task-metrics"
        " --collector.systemd.enable-restarts-metrics --collector.systemd.enable-start-time-metrics"
        f" --collector.systemd.unit-exclude='{exclude}'"
    )
    machine.wait_for_open_port(9190, timeout=30)

    with subtest("the same units have the same series, types and help"):
        # By one command, because each command is a unit; and again where the system moved between the two.
        for attempt in range(5):
            theirs, _, ours = machine.succeed(
                "curl --fail --silent http://127.0.0.1:9190/metrics; echo =====;"
                " ci-runner exporter --once --collectors systemd 2>/dev/null"
            ).partition("=====\n")
            mine, peer = series(ours), series(theirs)
            moved = lambda name: name.startswith(MOVING)
            different = {
                name: (mine.get(name), peer.get(name))
                for name in mine.keys() | peer.keys()
                if name not in mine or name not in peer or (mine[name] != peer[name] and not moved(name))
            }
            if not different:
                break
        assert not different, different
        assert heads(ours) == heads(theirs), heads(ours) ^ heads(theirs)
        assert len(mine) > 300, len(mine)
        machine.log(f"{len(mine)} series are the same")

    with subtest("what it costs beside the other"):
        # The exporter's own figure for one, the other's for the other, of the same moment.
        for name, port in {"ours": 9100, "node_exporter": 9190}.items():
            machine.succeed(f"curl --fail --silent http://127.0.0.1:{port}/metrics >/dev/null")
            metrics = machine.succeed(f"curl --fail --silent http://127.0.0.1:{port}/metrics")
            line = 'node_scrape_collector_duration_seconds{collector="systemd"}'
            took = [text for text in metrics.splitlines() if text.startswith(line)]
            machine.log(f"{name}: {took}")
