# Types that several options share, with the daemon's own limits. `config check` has the last word on a value; what is
# refused here is refused while the system is evaluated, with the option's name.
{ lib }:
let
  inherit (lib) types;
in
{
  executor = types.enum [
    "native"
    "systemd"
  ];

  profile = types.enum [
    "build"
    "strict"
    "open"
  ];

  label = types.strMatching "[^=[:space:]]+(=[^[:space:]]*)?";

  slots = types.ints.between 1 1024;

  # A Nix path would be refused too: it is copied into the store as soon as somebody uses it.
  secretFile = types.externalPath // {
    description = "absolute path outside of the Nix store, as a text like \"/run/secrets/name\"";
  };
}
