# Takes the place of nixpkgs where scripts/check-nix evaluates the flake: it is copied to a
# directory that has nixpkgs' `lib` beside it.
{
  outputs =
    _:
    let
      lib = import ./lib;
      packages = system: import ./pkgs.nix { inherit lib system; };
    in
    {
      lib = lib // {
        nixosSystem =
          { modules }:
          import ./system.nix {
            inherit lib;
            pkgs = packages "x86_64-linux";
          } { imports = modules; };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] packages;
    };
}
