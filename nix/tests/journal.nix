# What jobs print in the journal: the host's pools with it, one without.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-journal";

  nodes.machine = {
    imports = [
      self.nixosModules.default
      ./common/both-executors.nix
    ];
    services.ci-runner = {
      maxParallelJobs = 20;
      retryAttempts = 0;
      settings = {
        journal = true;
        pools.silent = {
          slots = 4;
          labels = [ "silent" ];
          journal = false;
        };
      };
    };
  };

  testScript = builtins.readFile ./journal.py;
}
