# Running, queued and finished jobs, and the end of the whole host: orderly, and in one moment.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-reboot";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "native";
      slotUsers = false; # children of the daemon: what happens to it happens around them
      maxParallelJobs = 10;
    };
  };

  testScript = builtins.readFile ./reboot.py;
}
