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

      # nix run . -- status, nix run .#add_job -- 'make test'
      apps = eachSystem (
        pkgs:
        nixpkgs.lib.genAttrs' [ "ci-runner" "add_job" ] (
          program:
          nixpkgs.lib.nameValuePair (if program == "ci-runner" then "default" else program) {
            type = "app";
            program = "${self.packages.${pkgs.stdenv.hostPlatform.system}.default}/bin/${program}";
            meta.description = "Client of ci-runner";
          }
        )
      );

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
