# Takes the place of nixpkgs where scripts/check-nix evaluates the flake. It is copied then, with nixpkgs' own `lib` in place of
# ./lib where that is known.
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
