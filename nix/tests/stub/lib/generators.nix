# Values as text.
{ lib }:
let
  isPlain = name: builtins.match "[a-zA-Z_][a-zA-Z0-9_'-]*" name != null;
  quoted = text: "\"${lib.replaceStrings [ "\\" "\"" "\${" ] [ "\\\\" "\\\"" "\\\${" ] text}\"";

  block =
    indent: open: close: lines:
    "${open}\n${lib.concatMapStrings (line: "${indent}  ${line}\n") lines}${indent}${close}";

  pretty =
    indent: value:
    let
      inner = pretty "${indent}  ";
      entry = name: item: "${if isPlain name then name else quoted name} = ${inner item};";
    in
    if lib.isFunction value then
      "<function>"
    else if lib.isDerivation value then
      "<derivation ${value.name}>"
    else if lib.isString value then
      quoted value
    else if value == [ ] then
      "[ ]"
    else if value == { } then
      "{ }"
    else if lib.isList value then
      block indent "[" "]" (map inner value)
    else if lib.isAttrs value then
      block indent "{" "}" (lib.mapAttrsToList entry value)
    else if lib.isPath value then
      toString value
    else
      builtins.toJSON value;
in
{
  toPretty = _: pretty "";

  # Lists are always keys that stand there several times.
  toINI =
    { listsAsDuplicateKeys }:
    assert listsAsDuplicateKeys;
    let
      text = value: if lib.isBool value then (if value then "true" else "false") else toString value;
      line = key: value: lib.concatMapStrings (one: "${key}=${text one}\n") (lib.toList value);
      section = name: keys: "[${name}]\n${lib.concatStrings (lib.mapAttrsToList line keys)}";
    in
    sections: lib.concatStringsSep "\n" (lib.mapAttrsToList section sections);
}
