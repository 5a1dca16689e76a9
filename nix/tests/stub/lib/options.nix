# Declarations of options, and the list of them for a page.
{ lib }:
let
  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  shown =
    value:
    if value._type or null == "literalExpression" then
      value
    else
      literalExpression (lib.generators.toPretty { } value);

  optionAttrSetToDocList =
    tree:
    lib.concatMap (inner: if lib.isOption inner then document inner else optionAttrSetToDocList inner) (
      lib.attrValues tree
    );
  document =
    option:
    [
      (
        {
          name = lib.showOption option.loc;
          description = option.description or null;
          type = option.type.description;
          visible = option.visible or true;
          internal = option.internal or false;
        }
        // lib.optionalAttrs (option ? default) { default = shown (option.defaultText or option.default); }
        // lib.optionalAttrs (option ? example) { example = shown option.example; }
      )
    ]
    ++ optionAttrSetToDocList (option.type.getSubOptions option.loc);
in
{
  inherit literalExpression optionAttrSetToDocList;

  # What an option does not have is refused; so is what only nixpkgs knows.
  mkOption =
    option:
    let
      unknown = removeAttrs option [
        "default"
        "defaultText"
        "description"
        "example"
        "internal"
        "type"
      ];
    in
    if unknown != { } then
      throw "An option has no `${toString (lib.attrNames unknown)}'."
    else
      option // { _type = "option"; };

  mkEnableOption =
    name:
    lib.mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${name}.";
    };

  mkPackageOption =
    packages: name:
    { pkgsText }:
    lib.mkOption {
      type = lib.types.package;
      default = packages.${name};
      defaultText = literalExpression "${pkgsText}.${name}";
      description = "The ${name} package to use.";
    };
}
