# Two jobs side by side, one of them hostile, under each profile and as native jobs.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-sandbox";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "systemd";
      slotUsers = false; # the control: native jobs under one user
      retryAttempts = 0;
      extraPackages = [
        (pkgs.python3.withPackages (_: [ ]))
        pkgs.systemd
        pkgs.util-linux
      ];
      settings = {
        grace = 1;
        pools = {
          open = {
            slots = 2;
            profile = "open";
          };
          build = {
            slots = 2;
            profile = "build";
          };
          strict = {
            slots = 2;
            profile = "strict";
          };
          native = {
            slots = 2;
            executor = "native";
          };
        };
      };
    };
    environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
  };

  testScript = builtins.readFile ./sandbox.py;
}
