# Native jobs, as they are by default: under a user per slot, started by a service of root.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-slots";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "native";
      maxParallelJobs = 8;
      retryAttempts = 0;
      extraPackages = [
        (pkgs.python3.withPackages (_: [ ]))
        pkgs.systemd
        pkgs.util-linux
      ];
      settings.grace = 1;
      pools.small.slots = 2;
    };
    environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
  };

  testScript = builtins.readFile ./slots.py;
}
