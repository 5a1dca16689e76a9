# Deadlines, delays, dates and schedules, in both executors, under a clock that is set by years.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-clock";

  nodes.machine = {
    imports = [
      self.nixosModules.default
      ./common/both-executors.nix
    ];
    services.ci-runner = {
      maxParallelJobs = 8;
      settings.pools.native.slots = 8;
    };
  };

  testScript = builtins.readFile ./clock.py;
}
