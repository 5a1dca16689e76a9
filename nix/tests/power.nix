# Jobs as transient units and native ones, and power that fails: acknowledged is on the disk.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-power";

  nodes.machine = {
    imports = [
      self.nixosModules.default
      ./common/both-executors.nix
    ];
    services.ci-runner.maxParallelJobs = 4;
  };

  testScript = builtins.readFile ./power.py;
}
