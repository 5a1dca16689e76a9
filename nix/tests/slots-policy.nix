# Native jobs under a user per slot, and who those are changes while they run.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-slots-policy";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "native";
      retryAttempts = 0;
      extraPackages = [
        pkgs.procps
        pkgs.util-linux
      ];
      settings.grace = 1;
      pools.small.slots = 2;
    };
    environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
  };

  testScript = builtins.readFile ./slots-policy.py;
}
