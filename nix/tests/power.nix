# Jobs as transient units and native ones, and power that fails: acknowledged is on the disk.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-power";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "systemd";
      maxParallelJobs = 4;
      settings.pools.native = {
        slots = 4;
        labels = [ "native" ];
        executor = "native";
      };
    };
  };

  testScript = builtins.readFile ./power.py;
}
