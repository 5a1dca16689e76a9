"""Every option of the module does what its description says: looked at where it counts, in the service that runs.

Written against the `machine` of the NixOS test driver. What is refused while the system is built is not looked at here: see
configurations/.
"""

import base64
import hashlib
import hmac
import json

# What the machine's hook is signed with, and who is at its other end.
SECRET = b"k" * 32
RECEIVER = r"""
import socket
server = socket.create_server(("127.0.0.1", 8099))
connection, _ = server.accept()
request = b""
while b"\r\n\r\n" not in request:
    request += connection.recv(65536)
header, body = request.split(b"\r\n\r\n", 1)
length = next(int(line.split(b":")[1]) for line in header.split(b"\r\n") if line.lower().startswith(b"content-length"))
while len(body) < length:
    body += connection.recv(65536)
connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
open("/run/received", "wb").write(header + b"\n\n" + body)
"""


def show(job: str) -> dict:
    return json.loads(machine.succeed(f"ci-runner show {job} --output json"))


def finished(job: str) -> dict:
    machine.execute(f"ci-runner wait --timeout 60s {job}", timeout=70)
    return show(job)


machine.start()
machine.wait_for_unit("ci-runner-spawner.service")
machine.wait_for_unit("ci-runner.service")

with subtest("maxParallelJobs, settings.pools: slots and labels"):
    pools = {pool["name"]: pool for pool in json.loads(machine.succeed("ci-runner pools --output json"))}
    assert (pools["default"]["slots"], pools["heavy"]["slots"]) == (3, 2), pools
    assert finished(machine.succeed("ci-runner add --label memory=64G -- true").strip())["pool"] == "heavy"

with subtest("retryAttempts and retryDelay"):
    shown = finished(machine.succeed("ci-runner add -- false").strip())
    assert len(shown["attempts"]) == 3, shown

with subtest("executor: jobs are units, in a slice of their own"):
    job = machine.succeed("ci-runner add -- sleep 60").strip()
    unit = machine.wait_until_succeeds(
        f"systemctl list-units --plain --no-legend 'ci-job-*-{job}-1.service' | cut -d' ' -f1 | grep .", timeout=20
    ).strip()
    assert machine.get_unit_property(unit, "Slice") == "ci_jobs.slice"
    machine.succeed(f"ci-runner cancel {job}")

with subtest("defaultTimeout and maxTimeout"):
    job = machine.succeed("ci-runner add --hold -- true").strip()
    assert "120" in json.dumps(show(job)) or "2m" in machine.succeed(f"ci-runner show {job}"), show(job)
    told = machine.fail("ci-runner add --timeout 601 -- true 2>&1")
    assert "at most 600 s" in told, told
    machine.succeed("ci-runner add --timeout 600 --hold -- true")
    machine.succeed("ci-runner cancel --all")

with subtest("settings: keys without an option, and what stands in the file"):
    text = machine.succeed("ci-runner config show --config /etc/ci-runner/config.toml")
    for line in ["grace = ", "max_parallel_jobs = 3", "log_level = \"debug\""]:
        assert line in text, (line, text)
    machine.succeed("ci-runner config check /etc/ci-runner/config.toml")

with subtest("settings.http, metrics.port and metrics.listenAddress"):
    machine.wait_for_open_port(8087, timeout=30)
    machine.wait_for_open_port(9107, timeout=30)
    machine.succeed("curl -fsS http://127.0.0.1:8087/health")
    machine.wait_until_succeeds("curl -fsS http://127.0.0.1:9107/metrics | grep ^ci_runner_build_info", timeout=30)
    machine.succeed("ss -ltn | grep -q '0.0.0.0:9107'")

with subtest("schedules: they run, belong to the configuration, and a pause is remembered"):
    shown = json.loads(machine.succeed("ci-runner schedule show often --output json"))
    assert (shown["source"], shown["overlap"], shown["missed"], shown["timezone"]) == (
        "configuration",
        "queue",
        "skip",
        "Europe/Berlin",
    ), shown
    machine.wait_until_succeeds("ci-runner list --all --output json | grep -q '\"name\":\"often\"'", timeout=60)
    told = machine.fail("ci-runner schedule rm often 2>&1")
    assert "[schedules.often]" in told and "services.ci-runner.schedules" in told, told
    machine.succeed("ci-runner schedule pause often")
    machine.succeed("systemctl reload ci-runner && systemctl restart ci-runner", timeout=60)
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    assert "paused" in machine.succeed("ci-runner schedule list"), machine.succeed("ci-runner schedule list")
    assert "configuration" in machine.succeed("ci-runner schedule list")

with subtest("watch: an alarm by these limits"):
    config = machine.succeed("ci-runner config show --config /etc/ci-runner/config.toml")
    for line in ["every = ", "stuck_after = ", 'queue_age_max = "unlimited"']:
        assert line in config, (line, config)
    job = machine.succeed("ci-runner add --name told-slow -- sleep 60").strip()
    machine.wait_until_succeeds(f"ci-runner watches --output json | grep stuck_job | grep -q '\"job\":{job}'", timeout=30)
    machine.wait_until_succeeds("grep -q watch.started /var/lib/ci-runner/told", timeout=30)
    machine.succeed(f"ci-runner cancel {job}")

with subtest("notifiers: a program is told of what it asks for, and finds the credential"):
    for name, outcome in [("other", "false"), ("told-well", "true"), ("told-badly", "false")]:
        finished(machine.succeed(f"ci-runner add --retry 0 --name {name} -- {outcome}").strip())
    machine.wait_until_succeeds("grep -q told-badly /var/lib/ci-runner/told", timeout=30)
    told = machine.succeed("cat /var/lib/ci-runner/told")
    assert "other" not in told and "told-well" not in told, told
    # The bytes of the secret, after each event.
    machine.wait_until_succeeds("test $(grep -c '\"type\":' /var/lib/ci-runner/told) -eq $(grep -cx 50 /var/lib/ci-runner/told)", timeout=30)

with subtest("notifiers and credentials: a hook is signed with a secret that only root could read"):
    assert machine.succeed("stat -c %U-%a /run/hook-secret").strip() == "root-400"
    machine.succeed(f"echo {base64.b64encode(RECEIVER.encode()).decode()} | base64 -d >/run/receiver.py")
    machine.succeed("systemd-run --unit=receiver --collect python3 /run/receiver.py")
    machine.wait_until_succeeds("ss -ltn | grep -q 127.0.0.1:8099", timeout=20)
    machine.succeed("ci-runner notify test signed", timeout=30)
    machine.wait_until_succeeds("test -s /run/received", timeout=20)
    header, body = machine.succeed("cat /run/received").split("\n\n", 1)
    fields = dict(line.split(": ", 1) for line in header.splitlines()[1:])
    signed = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.{body}".encode()
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert fields["webhook-signature"] == f"v1,{expected}", (fields, body)

with subtest("notifiers: a mail"):
    machine.succeed("ci-runner notify test mail", timeout=30)
    mail = machine.wait_until_succeeds("cat /var/lib/ci-runner/mail | grep .", timeout=20)
    for line in ["To: ops@example.org", "From: ci@example.org"]:
        assert line in mail, mail

with subtest("units that give way to a machine's own values"):
    assert machine.get_unit_property("ci-runner.service", "WatchdogUSec") == "20s"
    assert machine.get_unit_property("ci_runner.slice", "MemoryMin") == str(64 * 1024 * 1024)

with subtest("the service is apart from its jobs"):
    for unit in ["ci-runner.service", "ci-runner-spawner.service"]:
        group = machine.get_unit_property(unit, "ControlGroup")
        assert group == f"/ci_runner.slice/{unit}", group
    assert machine.get_unit_property("ci_runner.slice", "CPUWeight") == "1000"
    assert machine.get_unit_property("ci_jobs.slice", "CPUWeight") == "50"

with subtest("five crashes in a row do not end the service"):
    for _ in range(6):
        machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner")
        machine.wait_until_succeeds("systemctl show -P SubState ci-runner | grep -x running && ci-runner status", timeout=30)
    assert int(machine.get_unit_property("ci-runner.service", "NRestarts")) >= 6
    assert machine.get_unit_property("ci-runner.service", "StatusText") != ""
