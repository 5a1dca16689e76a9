# docs/reference/options.md: every option of the module with type, default, example and description, by the way of
# `nixosOptionsDoc` (lib.optionAttrSetToDocList), which needs packages that are not here.
{ lib }:
options:
let
  inherit (lib) concatMapStrings concatStringsSep optionalString;

  ours = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList { services.ci-runner = options; }
  );

  # What a text of the module's means by {option}`x` and ''''${system}.
  text = lib.replaceStrings [ "{option}`" "{file}`" "{command}`" ] [ "`" "`" "`" ];
  code = value: if value ? text then value.text else toString value;
  isLong = value: lib.hasInfix "\n" (code value);
  shown =
    word: value:
    if isLong value then
      "\n*${word}:*\n\n```nix\n${code value}\n```\n"
    else
      "\n*${word}:* `${code value}`\n";

  one = option: ''

    ## `${option.name}`

    ${lib.trim (text (option.description.text or option.description))}

    *Type:* ${option.type}
    ${optionalString (option ? default) (shown "Default" option.default)}${
      optionalString (option ? example) (shown "Example" option.example)
    }'';

  named = lib.filter (option: option.description != null) ours;
  undescribed = lib.filter (option: option.description == null) ours;
in
if undescribed != [ ] then
  throw "options without a description: ${
    concatStringsSep ", " (map (option: option.name) undescribed)
  }"
else
  ''
    # Options of the NixOS module

    Everything below `services.ci-runner`; [how to use them](../operating/nixos.md). A value that makes no sense is refused
    while the system is built, with the option's name and what to do.
  ''
  + concatMapStrings one (lib.sort (a: b: a.name < b.name) named)
