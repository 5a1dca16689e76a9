"""Every option of the module does what its description says: looked at where it counts, in the service that runs.

Written against the `machine` of the NixOS test driver. What is refused while the system is built is not looked at here: see
configurations.nix.
"""

import json


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
