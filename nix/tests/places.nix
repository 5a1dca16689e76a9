# Pools that run as a person, and sandboxes that a job chooses.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-places";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "systemd";
      retryAttempts = 0;
      extraPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
      settings.grace = 1;
      pools = {
        default.profiles = [
          "build"
          "open"
          "strict"
        ];
        ada = {
          slots = 4;
          user = "ada";
          paths = [
            "/home/ada/src"
            "/srv/ada"
          ];
        };
        # The same user's, inside of a directory that jobs of the pool above may change.
        inner = {
          slots = 2;
          user = "ada";
          paths = [ "/home/ada/src/out" ];
          submitters = [
            "ada"
            "bob"
          ];
        };
        wide = {
          slots = 2;
          user = "ada";
          profiles = [ "open" ];
          paths = [ "/home/ada/wide" ];
        };
        lax = {
          slots = 2;
          profiles = [
            "build"
            "strict"
          ];
          degrade = true;
        };
        # What is there is not ada's.
        stolen = {
          slots = 1;
          user = "ada";
          paths = [ "/srv/bob" ];
        };
      };
    };
    users.users = {
      ada = {
        isNormalUser = true;
        extraGroups = [ "ci-runner" ];
      };
      bob = {
        isNormalUser = true;
        extraGroups = [ "ci-runner" ];
      };
    };
    environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
  };

  testScript = builtins.readFile ./places.py;
}
