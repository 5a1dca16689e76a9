# A batch of running jobs, and one disturbance of the service, again and again. The watchdog is
# quicker than the module's, so that the test is.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-resilience";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "native";
      slotUsers = false; # children of the daemon: what happens to it happens around them
      maxParallelJobs = 60;
    };
    systemd.services.ci-runner.serviceConfig.WatchdogSec = "5s";
  };

  testScript = builtins.readFile ./resilience.py;
}
