# `settings`: every key of the configuration file that has no option of its own. Free in form, because `config check` reads
# the finished file; typed where the module itself has to know a value.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (import ../lib/types.nix { inherit lib; }) label slots;

  cfg = config.services.ci-runner;
  toml = pkgs.formats.toml { };
in
{
  options.services.ci-runner = {
    settings = mkOption {
      default = { };
      description = ''
        Everything else, as keys of the configuration file. What has an option of its own above is
        set there and nowhere else. The file is checked while the system is built.
      '';
      type = types.submodule {
        freeformType = toml.type;
        options = {
          http = mkOption {
            type = types.either types.str (types.attrsOf toml.type);
            default = "127.0.0.1:8080";
            example = "off";
            description = "Address and port of the health routes on TCP, or `off`, or a table with more keys.";
          };

          pools = mkOption {
            default = { };
            example = {
              default.labels = [ "tmpfs" ];
              heavy = {
                slots = 1;
                labels = [ "memory=64G" ];
              };
            };
            description = ''
              Named capacity for jobs with certain labels. The pool `default` is always there and has
              {option}`services.ci-runner.maxParallelJobs` slots.
            '';
            type = types.attrsOf (
              types.submodule (
                { name, ... }:
                {
                  freeformType = toml.type;
                  config = lib.mkIf (name == "default") { slots = cfg.maxParallelJobs; };
                  options = {
                    slots = mkOption {
                      type = slots;
                      description = "How many jobs of this pool run at the same time.";
                    };

                    labels = mkOption {
                      type = types.listOf label;
                      default = [ ];
                      example = [
                        "gpu"
                        "arch=arm64"
                      ];
                      description = "What this pool offers, as `key` or `key=value`.";
                    };
                  };
                }
              )
            );
          };
        };
      };
    };
  };
}
