# The names of the test scripts: NAME.py with the machine it runs on in NAME.nix. Flake checks and
# the renderings for guests both go by this list.
let
  matches = map (builtins.match "(.*)\\.py") (builtins.attrNames (builtins.readDir ./.));
in
map builtins.head (builtins.filter (match: match != null) matches)
