# For a configuration without flakes: imports = [ ./ci-runner.nix ]; services.ci-runner.enable = true;
{ imports = [ ./nix/modules/ci-runner.nix ]; }
