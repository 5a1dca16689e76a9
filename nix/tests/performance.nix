# Throughput and latency of the installed service. A virtual machine says little about speed: the
# figures are printed, and the bounds only catch what is broken.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-performance";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "native";
      slotUsers = false; # the leanest way: no user of their own, no wiping
    };
    virtualisation.cores = 2;
  };

  testScript = builtins.readFile ./performance.py;
}
