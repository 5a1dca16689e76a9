# Example configurations, evaluated as whole systems by `nix flake check` and against stubs of the
# other modules by scripts/check-nix.
{
  accepted = import ./accepted.nix;
  refused = import ./refused.nix;
}
