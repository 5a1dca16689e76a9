# Every option of the module at a value of its own, for a test that each of them does something. Values that make no sense,
# and the configurations that are only evaluated, are in configurations/.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-module-options";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "systemd";
      maxParallelJobs = 3;
      retryAttempts = 2;
      retryDelay = 1;
      defaultTimeout = 120;
      maxTimeout = 600;
      logLevel = "debug";
      metrics = {
        port = 9107;
        listenAddress = "0.0.0.0";
      };
      openFirewall = true;
      extraPackages = [ pkgs.gcc ];
      schedules.often = {
        calendar = "*/2 * * * * *";
        timezone = "Europe/Berlin";
        shell = "echo on time";
        overlap = "queue";
        missed = "skip";
        job.retry = 0;
      };
      watch = {
        every = 1;
        stuckAfter = 3;
        failureRateMax = 0;
        queueAgeMax = "unlimited";
      };
      credentials.hook = "/run/hook-secret";
      notifiers = {
        program = {
          kind = "command";
          # What it was told of, and that the credential of the service is there for it too.
          command = [
            "/bin/sh"
            "-c"
            "{ cat; echo; wc -c </run/credentials/ci-runner.service/hook; } >>/var/lib/ci-runner/told"
          ];
          outcomes = [ "failed" ];
          names = [ "told*" ];
          watches = [ "stuck_job" ];
        };
        signed = {
          kind = "http";
          url = "http://127.0.0.1:8099/hook";
          secretCredential = "hook";
          timeout = 5;
          triesMax = 1;
        };
        mail = {
          kind = "email";
          to = [ "ops@example.org" ];
          from = "ci@example.org";
          sendmail = [
            "/bin/sh"
            "-c"
            "cat >/var/lib/ci-runner/mail"
          ];
        };
      };
      settings = {
        http = "127.0.0.1:8087";
        grace = 4;
        pools.heavy = {
          slots = 2;
          labels = [ "memory=64G" ];
        };
      };
    };
    environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
    # Root's alone, as secrets are.
    systemd.tmpfiles.rules = [
      "f /run/hook-secret 0400 root root - whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
    ];
    # Defaults give way.
    systemd.services.ci-runner.serviceConfig.WatchdogSec = "20s";
    systemd.slices.ci_runner.sliceConfig.MemoryMin = "64M";
  };

  testScript = builtins.readFile ./module-options.py;
}
