# What jobs print in the journal: the host's pools with it, one without.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-journal";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "systemd";
      maxParallelJobs = 20;
      retryAttempts = 0;
      settings = {
        journal = true;
        pools = {
          native = {
            slots = 4;
            labels = [ "native" ];
            executor = "native";
          };
          silent = {
            slots = 4;
            labels = [ "silent" ];
            journal = false;
          };
        };
      };
    };
  };

  testScript = builtins.readFile ./journal.py;
}
