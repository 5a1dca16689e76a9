{
  description = "A self-hosted job runner whose jobs outlive everything that happens to it";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      eachSystem =
        f:
        nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system: f nixpkgs.legacyPackages.${system}
        );
    in
    {
      nixosModules.default = ./nix/modules/ci-runner.nix;

      overlays.default = final: _prev: { ci-runner = final.callPackage ./nix/package.nix { }; };

      packages = eachSystem (pkgs: {
        default = pkgs.callPackage ./nix/package.nix { };
      });

      checks = eachSystem (
        pkgs:
        import ./nix/checks.nix {
          inherit pkgs self;
          inherit (nixpkgs) lib;
        }
      );

      devShells = eachSystem (pkgs: {
        default = pkgs.callPackage ./nix/devshell.nix { };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
