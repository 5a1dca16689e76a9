# Limits of memory, CPU and processes, and receipts, for native jobs and for units.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-limits";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    services.ci-runner = {
      enable = true;
      executor = "systemd";
      slotUsers = false; # native jobs in cgroups of the daemon's own
      retryAttempts = 0;
      extraPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
      settings = {
        grace = 1;
        pools = {
          units = {
            slots = 4;
            profile = "build";
          };
          small-units = {
            slots = 2;
            profile = "build";
            memory_max = "160M";
            cpu_max = 0.5;
            pids_max = 40;
          };
          # A quarter of everybody's share.
          light-units = {
            slots = 1;
            profile = "build";
            cpu_weight = 25;
          };
          squeezed-units = {
            slots = 1;
            profile = "build";
            memory_high = "48M";
          };
          native = {
            slots = 4;
            executor = "native";
          };
          light-native = {
            slots = 1;
            executor = "native";
            cpu_weight = 25;
          };
          squeezed-native = {
            slots = 1;
            executor = "native";
            memory_high = "48M";
          };
          small-native = {
            slots = 2;
            executor = "native";
            memory_max = "160M";
            cpu_max = 0.5;
            pids_max = 40;
          };
        };
      };
    };
    environment.systemPackages = [ (pkgs.python3.withPackages (_: [ ])) ];
  };

  testScript = builtins.readFile ./limits.py;
}
