# Figures: what is served for Prometheus and to whom, and what other services of this machine get of the package.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.ci-runner = {
    enableMetrics = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to serve `/metrics` for Prometheus.";
    };

    metrics = {
      port = mkOption {
        type = types.port;
        default = 9100;
        description = "TCP port of `/metrics`.";
      };

      listenAddress = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "::";
        description = "Address on which `/metrics` is served.";
      };

      host = mkOption {
        type = types.bool;
        default = true;
        description = "Whether `/metrics` shows the host too, under the names of node_exporter (`node_*`).";
      };

      textfileDirectory = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/var/lib/node-exporter-textfiles";
        description = ''
          Directory in which `ci_runner.prom` is written, for the textfile collector of a node exporter that runs
          already. The user `ci-runner-exporter` has to be able to write there.
        '';
      };
    };

    monitoring = {
      prometheusRules = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether the Prometheus of this machine (`services.prometheus`) gets the recording and alert rules that the
          package ships in `share/ci-runner/prometheus`. It has to scrape the exporter under a job name with `ci-runner` in it.
        '';
      };

      grafanaDashboards = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether the Grafana of this machine (`services.grafana`) gets the dashboard that the package ships in
          `share/ci-runner/grafana`.
        '';
      };
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the port of the metrics in the firewall. No other port is opened.";
    };
  };
}
