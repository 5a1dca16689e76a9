# Jobs as transient units: pools with each profile, one that the policy does not name, and a native one.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-systemd";

  nodes.machine = {
    imports = [
      self.nixosModules.default
      ./common/both-executors.nix
    ];
    services.ci-runner = {
      slotUsers = false; # so that the daemon's own spawner writes logs beside root's
      maxParallelJobs = 50;
      retryAttempts = 0;
      extraPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
      settings = {
        grace = 2;
        pools = {
          bare = {
            slots = 4;
            labels = [ "bare" ];
            profile = "open";
          };
          closed = {
            slots = 4;
            labels = [ "closed" ];
            profile = "strict";
          };
          four = {
            slots = 4;
            labels = [ "four" ];
          };
        };
      };
    };
    environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
  };

  testScript = builtins.readFile ./systemd.py;
}
