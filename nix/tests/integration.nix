# Everything that can happen to the daemon while jobs run, and what the jobs notice of it: nothing.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-integration";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "native";
      slotUsers = false; # children of the daemon: what happens to it happens around them
      maxParallelJobs = 50;
    };
  };

  testScript = builtins.readFile ./integration.py;
}
