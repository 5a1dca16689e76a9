# The module system: modules with options and definitions in, one checked configuration out.
{ lib }:
let
  showOption = lib.concatStringsSep ".";

  tagOf = value: if lib.isAttrs value then value._type or null else null;
  isOption = value: tagOf value == "option";

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };

  # A definition without mkIf, mkMerge and mkOverride: what is left of it, each with its priority.
  discharge =
    value:
    {
      "if" = if value.condition then discharge value.content else [ ];
      merge = lib.concatMap discharge value.contents;
      override = map (one: one // { inherit (value) priority; }) (discharge value.content);
    }
    .${toString (tagOf value)} or [
      {
        inherit value;
        priority = 100;
      }
    ];

  # The same of a set, handed on to its attributes: no condition is looked at, so that one may depend on the configuration.
  spread =
    value:
    {
      "if" = map (lib.mapAttrs (_: mkIf value.condition)) (spread value.content);
      merge = lib.concatMap spread value.contents;
      override = map (lib.mapAttrs (_: mkOverride value.priority)) (spread value.content);
    }
    .${toString (tagOf value)} or [ value ];

  # One value from the definitions of the highest priority, by the type's rules.
  mergeDefinitions =
    loc: type: definitions:
    let
      all = lib.concatMap discharge definitions;
      highest = lib.foldl' (best: one: if one.priority < best then one.priority else best) 9999 all;
      chosen = lib.filter (one: one.priority == highest) all;
      wrong = lib.filter (one: !type.check one.value) chosen;
    in
    {
      isDefined = chosen != [ ];
      value =
        if chosen == [ ] then
          throw "The option `${showOption loc}' was accessed but has no value defined."
        else if wrong != [ ] then
          throw "A definition for option `${showOption loc}' is not of type `${type.description}': ${
            lib.concatMapStringsSep ", " (one: lib.generators.toPretty { } one.value) wrong
          }"
        else
          type.merge loc chosen;
    };

  known = [
    "_file"
    "config"
    "freeformType"
    "imports"
    "key"
    "options"
  ];

  # A module without options may leave the word `config` out.
  normal =
    module:
    let
      strange = removeAttrs module known;
    in
    if !(module ? config || module ? options) then
      {
        imports = module.imports or [ ];
        config = removeAttrs module (lib.filter (name: name != "config") known);
        options = { };
      }
    else if strange != { } then
      throw "A module has `${toString (lib.attrNames strange)}' beside `config' or `options'."
    else
      {
        imports = [ ];
        options = { };
        config = { };
      }
      // module;

  # All modules, what is imported too, each file once. The order is that of nixpkgs: lists are joined by it.
  collect =
    call: modules:
    let
      isFile = module: lib.isPath module || lib.isString module;
      item = parent: number: module: rec {
        key = if isFile module then toString module else "${parent}#${toString number}";
        loaded = normal (call (if isFile module then import module else module));
      };
    in
    lib.reverseList (
      map (found: found.loaded) (
        builtins.genericClosure {
          startSet = lib.imap (item "") modules;
          operator = found: lib.imap (item found.key) found.loaded.imports;
        }
      )
    );

  # The options that modules declare, in one tree.
  declare =
    prefix:
    lib.zipAttrsWith (
      name: trees:
      let
        loc = prefix ++ [ name ];
      in
      if !lib.any isOption trees then
        declare loc trees
      else if lib.length trees > 1 then
        throw "The option `${showOption loc}' is declared more than once."
      else
        lib.head trees
    );

  # That tree with `loc` and `value` in each option. Definitions are sets.
  resolve =
    prefix: tree: definitions:
    lib.mapAttrs (
      name: inner:
      let
        loc = prefix ++ [ name ];
        below = map (set: set.${name}) (lib.filter (set: set ? ${name}) definitions);
      in
      if isOption inner then
        inner
        // {
          inherit loc;
          inherit
            (mergeDefinitions loc inner.type (
              below ++ lib.optional (inner ? default) (mkOverride 1500 inner.default)
            ))
            value
            ;
        }
      else
        resolve loc inner (lib.concatMap spread below)
    ) tree;

  values = lib.mapAttrs (_: inner: if isOption inner then inner.value else values inner);

  # Definitions that no option is there for.
  strays =
    prefix: tree: definitions:
    lib.concatMap (
      set:
      lib.concatMap (
        name:
        let
          loc = prefix ++ [ name ];
        in
        if !tree ? ${name} then
          [
            {
              inherit loc;
              definition.${name} = set.${name};
            }
          ]
        else if isOption tree.${name} then
          [ ]
        else
          strays loc tree.${name} (spread set.${name})
      ) (lib.attrNames set)
    ) definitions;

  evalModules =
    {
      modules,
      prefix ? [ ],
      specialArgs ? { },
    }:
    let
      arguments = {
        inherit config lib options;
      }
      // specialArgs;
      # What a module asks for by name may come from another one.
      call =
        module:
        if lib.isFunction module then
          module (
            arguments
            // lib.mapAttrs (name: _: arguments.${name} or declared._module.args.${name}) (
              lib.functionArgs module
            )
          )
        else
          module;
      own.options._module.args = lib.mkOption {
        type = lib.types.lazyAttrsOf lib.types.raw;
        default = { };
        internal = true;
      };
      all = collect call ([ own ] ++ modules);

      definitions = lib.concatMap (module: spread module.config) all;
      tree = declare prefix (map (module: module.options) all);
      options = resolve prefix tree definitions;
      declared = values options;
      unknown = strays prefix tree definitions;
      freeform = lib.filter (type: type != null) (map (module: module.freeformType or null) all);
      free = mergeDefinitions prefix (lib.head freeform) (map (stray: stray.definition) unknown);
      config = removeAttrs (
        if unknown == [ ] then
          declared
        else if freeform != [ ] then
          free.value // declared
        else
          throw "The option `${showOption (lib.head unknown).loc}' does not exist."
      ) [ "_module" ];
    in
    {
      inherit config;
      options = removeAttrs options [ "_module" ];
      freeformType = if freeform == [ ] then null else lib.head freeform;
    };
in
{
  inherit
    evalModules
    isOption
    mergeDefinitions
    mkIf
    mkMerge
    mkOverride
    showOption
    ;
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
}
