# A machine that switches to other systems and back while jobs run, units and native ones.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "ci-runner-switch";

  nodes.machine =
    { config, lib, ... }:
    {
      imports = [
        self.nixosModules.default
        ./common/both-executors.nix
      ];
      services.ci-runner = {
        maxParallelJobs = 20;
        retryAttempts = 0;
        settings.pools.native.slots = 20;
      };
      system.switch.enable = true;

      specialisation = {
        # Reloaded.
        settings.configuration.services.ci-runner.retryDelay = 7;

        # Restarted, for its listener is another one.
        http.configuration.services.ci-runner.settings.http = "127.0.0.1:8081";

        # The exporter is restarted, the daemon only reads it.
        metrics.configuration.services.ci-runner.metrics.port = 9101;

        # The daemon is restarted. The spawners keep their old units, whatever is changed in them.
        units.configuration.systemd.services = {
          ci-runner.serviceConfig.TimeoutStopSec = lib.mkForce "31s";
          ci-runner-spawner.serviceConfig.RestartSec = lib.mkForce "300ms";
          ci-runner-jobs.serviceConfig.RestartSec = lib.mkForce "300ms";
        };

        # Each spawner reads its policy anew.
        policy.configuration.services.ci-runner.settings.pools = {
          more = {
            slots = 1;
            labels = [ "more" ];
            executor = "systemd";
          };
          even-more = {
            slots = 1;
            labels = [ "even-more" ];
            executor = "native";
          };
        };

        # The daemon is restarted, the spawners execute the new program in the same process.
        upgrade.configuration.services.ci-runner.package = lib.mkForce (
          config.services.ci-runner.package.overrideAttrs (old: {
            postInstall = old.postInstall + "touch $out/next\n";
          })
        );

        # Away and back: jobs go on without any service.
        disabled.configuration.services.ci-runner.enable = lib.mkForce false;
      };
    };

  testScript = builtins.readFile ./switch.py;
}
