# The installed service, one thing after the other: unit, status line, client, journal, metrics.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-unit";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner.enable = true;
    users.users.alice = {
      isNormalUser = true;
      extraGroups = [ "ci-runner" ];
    };
    users.users.mallory.isNormalUser = true;
  };

  testScript = builtins.readFile ./unit.py;
}
