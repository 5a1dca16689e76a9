# A machine whose service gives up its delegated cgroups while native jobs run in them, and takes them back.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-delegate";

  nodes.machine =
    { lib, ... }:
    {
      imports = [ self.nixosModules.default ];
      services.ci-runner = {
        enable = true;
        executor = "native";
        slotUsers = false;
        maxParallelJobs = 4;
        retryAttempts = 0;
        extraPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
        settings.grace = 1;
      };
      environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
      system.switch.enable = true;

      # The daemon has no jobs inside of it then, and nothing delegated.
      specialisation.units.configuration.services.ci-runner.executor = lib.mkForce "systemd";
    };

  testScript = builtins.readFile ./delegate.py;
}
