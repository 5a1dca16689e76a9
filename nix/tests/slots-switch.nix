# A machine whose native jobs get another spawner while some of them run: a service of root, the daemon's own one, none.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-slots-switch";

  nodes.machine =
    { lib, ... }:
    {
      imports = [ self.nixosModules.default ];
      services.ci-runner = {
        enable = true;
        executor = "native";
        slotUsers = true;
        maxParallelJobs = 8;
        retryAttempts = 0;
        settings.grace = 1;
      };
      system.switch.enable = true;

      specialisation = {
        # As children of the daemon, under its user.
        own.configuration.services.ci-runner.slotUsers = lib.mkForce false;

        # As units, by the other spawner.
        units.configuration.services.ci-runner = {
          slotUsers = lib.mkForce false;
          executor = lib.mkForce "systemd";
        };
      };
    };

  testScript = builtins.readFile ./slots-switch.py;
}
