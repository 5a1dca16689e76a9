# A stand-in for nixpkgs' `lib`, for machines that have no nixpkgs: what the module, its tests and the flake use of it, and
# no more. Written anew; scripts/check-nix takes the real one where NIXPKGS_LIB names it. That both render every machine of
# nix/tests and the page of the options to the same text shows that this one can be believed.
let
  inherit (builtins)
    attrNames
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    genList
    isAttrs
    isList
    listToAttrs
    map
    mapAttrs
    match
    replaceStrings
    stringLength
    substring
    ;

  lists = {
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    toList = value: if isList value then value else [ value ];
    unique = foldl' (seen: value: if elem value seen then seen else seen ++ [ value ]) [ ];
    last = values: builtins.elemAt values (builtins.length values - 1);
    imap = f: values: genList (at: f (at + 1) (builtins.elemAt values at)) (builtins.length values);
    reverseList = foldl' (reversed: value: [ value ] ++ reversed) [ ];
    findFirstIndex =
      matches: default: values:
      let
        found = filter (at: matches (builtins.elemAt values at)) (
          genList (at: at) (builtins.length values)
        );
      in
      if found == [ ] then default else builtins.head found;
  };

  attrsets = rec {
    nameValuePair = name: value: { inherit name value; };
    mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs = keeps: set: removeAttrs set (filter (name: !keeps name set.${name}) (attrNames set));
    getAttrs = names: set: genAttrs names (name: set.${name});
    genAttrs = names: f: genAttrs' names (name: nameValuePair name (f name));
    genAttrs' = names: f: listToAttrs (map f names);
    mergeAttrsList = foldl' (merged: set: merged // set) { };
    concatMapAttrs = f: set: mergeAttrsList (mapAttrsToList f set);
    optionalAttrs = condition: set: if condition then set else { };
    recursiveUpdate =
      old: new:
      old
      // mapAttrs (
        name: value:
        if isAttrs value && isAttrs (old.${name} or null) then recursiveUpdate old.${name} value else value
      ) new;
    isDerivation = value: isAttrs value && value.type or null == "derivation";
  };

  strings = rec {
    concatStrings = concatStringsSep "";
    concatMapStrings = concatMapStringsSep "";
    concatMapStringsSep =
      separator: f: values:
      concatStringsSep separator (map f values);
    optionalString = condition: text: if condition then text else "";
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasInfix = infix: text: replaceStrings [ infix ] [ "" ] text != text;
    trim =
      text:
      let
        inner = match "[[:space:]]*(.*[^[:space:]])[[:space:]]*" text;
      in
      if inner == null then "" else builtins.head inner;
    lowerChars = characters "abcdefghijklmnopqrstuvwxyz";
    upperChars = characters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    characters = text: genList (at: substring at 1 text) (stringLength text);
  };

  packages = {
    getExe = package: "${package}/bin/${package.meta.mainProgram}";
    makeBinPath = strings.concatMapStringsSep ":" (package: "${package}/bin");
    importTOML = file: fromTOML (builtins.readFile file);
    licenses = {
      mit.spdxId = "MIT";
      asl20.spdxId = "Apache-2.0";
    };
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];

    # Lists of paths; what is named has to be there.
    fileset = {
      unions = concatMap lists.toList;
      maybeMissing = path: lists.optional (builtins.pathExists path) path;
      fileFilter = _: path: [ path ];
      toSource =
        { root, fileset }:
        let
          missing = filter (path: !builtins.pathExists path) (lists.toList fileset);
        in
        if missing != [ ] then
          throw "lib.fileset: ${toString missing} is not there"
        else
          { outPath = toString root; };
    };
  };

  lib =
    builtins
    // lists
    // attrsets
    // strings
    // packages
    // {
      inherit lists;
      id = value: value;
      types = import ./types.nix { inherit lib; };
      generators = import ./generators.nix { inherit lib; };
    }
    // import ./modules.nix { inherit lib; }
    // import ./options.nix { inherit lib; };
in
lib
