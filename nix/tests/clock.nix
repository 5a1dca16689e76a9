# Deadlines, delays, dates and schedules, in both executors, under a clock that is set by years.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-clock";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "systemd";
      maxParallelJobs = 8;
      settings.pools.native = {
        slots = 8;
        labels = [ "native" ];
        executor = "native";
      };
    };
  };

  testScript = builtins.readFile ./clock.py;
}
