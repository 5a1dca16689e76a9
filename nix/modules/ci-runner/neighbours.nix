# What the rest of the system gets: the client on everybody's PATH, an open port, rules for Prometheus, a dashboard for Grafana.
{ config, lib, ... }:
let
  cfg = config.services.ci-runner;
in
{
  config = lib.mkIf cfg.enable {
    # The client, `add_job`, man pages and completions for everybody.
    environment.systemPackages = [ cfg.package ];

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ cfg.metrics.port ];

    services.prometheus.ruleFiles = lib.mkIf cfg.monitoring.prometheusRules [
      "${cfg.package}/share/ci-runner/prometheus/ci-runner.rules.yml"
    ];
    services.grafana.provision = lib.mkIf cfg.monitoring.grafanaDashboards {
      enable = true;
      dashboards.settings.providers = [
        {
          name = "ci-runner";
          options.path = "${cfg.package}/share/ci-runner/grafana";
        }
      ];
    };
  };
}
