# Types: what a definition has to be, and how several of them become one value.
{ lib }:
let
  inherit (lib) mergeDefinitions showOption;

  mergeEqual =
    loc: definitions:
    let
      first = (lib.head definitions).value;
    in
    if lib.all (definition: definition.value == first) definitions then
      first
    else
      throw "The option `${showOption loc}' has conflicting definition values: ${
        lib.concatMapStringsSep ", " (definition: lib.generators.toPretty { } definition.value) definitions
      }";

  mergeOne =
    loc: definitions:
    if lib.length definitions == 1 then
      (lib.head definitions).value
    else
      throw "The option `${showOption loc}' is defined more than once.";

  # `kind` says whether the description needs brackets in another one.
  type =
    description: check: more:
    {
      inherit check description;
      kind = "noun";
      merge = mergeEqual;
      getSubOptions = _: { };
    }
    // more;

  within =
    kinds: inner: if lib.elem inner.kind kinds then inner.description else "(${inner.description})";
  inList = within [
    "noun"
    "composite"
  ];
  inChoice = within [
    "noun"
    "conjunction"
  ];

  isNumber = value: lib.isInt value || lib.isFloat value;
  between =
    low: high: value:
    value >= low && value <= high;
  range = low: high: "between ${shown low} and ${shown high} (both inclusive)";
  shown = value: if lib.isString value then "\"${value}\"" else builtins.toJSON value;

  isAbsolute = value: lib.hasPrefix "/" (toString value);
  isText = value: lib.isString value || lib.isPath value || value ? outPath;
  isModule = value: lib.isAttrs value || lib.isFunction value || lib.isPath value;

  listOf =
    inner:
    type "list of ${inList inner}" lib.isList {
      kind = "composite";
      getSubOptions = prefix: inner.getSubOptions (prefix ++ [ "*" ]);
      merge =
        loc: definitions:
        let
          entry = n: m: mergeDefinitions (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]) inner;
          entries = n: definition: lib.imap (m: value: entry n m [ value ]) definition.value;
        in
        map (one: one.value) (
          lib.filter (one: one.isDefined) (lib.concatLists (lib.imap entries definitions))
        );
    };

  setOf =
    description: keeps: inner:
    type "${description} of ${inList inner}" lib.isAttrs {
      kind = "composite";
      getSubOptions = prefix: inner.getSubOptions (prefix ++ [ "<name>" ]);
      merge =
        loc: definitions:
        lib.mapAttrs (_: one: one.value) (
          lib.filterAttrs (_: keeps) (
            lib.zipAttrsWith (name: mergeDefinitions (loc ++ [ name ]) inner) (
              map (definition: definition.value) definitions
            )
          )
        );
    };

  lazyAttrsOf = setOf "lazy attribute set" (_: true);

  either =
    left: right:
    type
      "${inChoice left} or ${
        within [
          "noun"
          "conjunction"
          "composite"
        ] right
      }"
      (value: left.check value || right.check value)
      {
        kind = "conjunction";
        merge =
          loc: definitions:
          let
            areAll = one: lib.all (definition: one.check definition.value) definitions;
          in
          if areAll left then
            left.merge loc definitions
          else if areAll right then
            right.merge loc definitions
          else
            mergeOne loc definitions;
      };

  anything = type "anything" (_: true) {
    merge =
      loc: definitions:
      let
        areAll = check: lib.all (definition: check definition.value) definitions;
      in
      if areAll (value: lib.isAttrs value && !value ? outPath) then
        (lazyAttrsOf anything).merge loc definitions
      else if areAll lib.isList then
        (listOf anything).merge loc definitions
      else if areAll lib.isFunction then
        mergeOne loc definitions
      else
        mergeEqual loc definitions;
  };

  submodule =
    module:
    let
      evaluate =
        prefix: name: more:
        lib.evalModules {
          inherit prefix;
          modules = [ module ] ++ more;
          specialArgs = { inherit name; };
        };
      inherit (evaluate [ ] "<name>" [ ]) freeformType;
    in
    type (if freeformType == null then "submodule" else "open submodule of ${inList freeformType}")
      isModule
      {
        kind = "module";
        getSubOptions = prefix: (evaluate prefix "<name>" [ ]).options;
        merge =
          loc: definitions:
          (evaluate loc (lib.last loc) (
            map (
              definition:
              if lib.isAttrs definition.value then { config = definition.value; } else definition.value
            ) definitions
          )).config;
      };
in
{
  inherit
    anything
    either
    lazyAttrsOf
    listOf
    submodule
    ;

  bool = type "boolean" lib.isBool { };
  int = type "signed integer" lib.isInt { };
  float = type "floating point number" lib.isFloat { };
  str = type "string" lib.isString { };
  raw = type "raw value" (_: true) { merge = mergeOne; };
  path = type "absolute path" (value: isText value && isAbsolute value) { };
  package = type "package" lib.isDerivation { merge = mergeOne; };

  # A path of Nix's is copied to the store as soon as it is used.
  externalPath = type "absolute path not in the Nix store" (
    value:
    lib.isString value
    && isAbsolute value
    && !lib.hasPrefix "${builtins.storeDir}/" value
    && !builtins.hasContext value
  ) { };

  nonEmptyStr = type "non-empty string" (
    value: lib.isString value && builtins.match "[[:space:]]*" value == null
  ) { };
  strMatching =
    pattern:
    type "string matching the pattern ${pattern}" (
      value: lib.isString value && builtins.match pattern value != null
    ) { };

  port = type "16 bit unsigned integer; ${range 0 65535}" (
    value: lib.isInt value && between 0 65535 value
  ) { };
  ints.positive = type "positive integer, meaning >0" (value: lib.isInt value && value > 0) {
    kind = "clause";
  };
  ints.between =
    low: high: type "integer ${range low high}" (value: lib.isInt value && between low high value) { };
  numbers.between =
    low: high:
    type "integer or floating point number ${range low high}" (
      value: isNumber value && between low high value
    ) { };

  enum =
    values:
    type
      (
        if lib.length values == 1 then
          "value ${shown (lib.head values)} (singular enum)"
        else
          "one of ${lib.concatMapStringsSep ", " shown values}"
      )
      (value: lib.elem value values)
      { kind = if lib.length values == 1 then "noun" else "conjunction"; };

  oneOf = types: lib.foldl' either (lib.head types) (lib.tail types);

  nullOr =
    inner:
    type "null or ${inChoice inner}" (value: value == null || inner.check value) {
      kind = "conjunction";
      inherit (inner) getSubOptions;
      merge =
        loc: definitions:
        if lib.all (definition: definition.value == null) definitions then
          null
        else
          inner.merge loc definitions;
    };

  nonEmptyListOf =
    inner:
    let
      list = listOf inner;
    in
    list
    // {
      description = "non-empty (${list.description})";
      check = value: list.check value && value != [ ];
    };

  attrsOf = setOf "attribute set" (one: one.isDefined);

  deferredModule = type "module" isModule {
    merge = _: definitions: { imports = map (definition: definition.value) definitions; };
  };
}
