#!/usr/bin/env bash
# Print the home of a Java that Spark runs on: of JAVA_HOME, of PATH, of the usual folders, or newly installed.
set -euo pipefail

found=() # versions that Spark does not run on

look() { # print the home of the Java behind this command and end the script, if the version is right
  local properties version
  properties=$("$1" -XshowSettings:properties -version 2>&1) || return 0
  version=$(sed -n 's/^ *java\.specification\.version = //p' <<<"$properties")
  case $version in
    17 | 21) sed -n 's/^ *java\.home = //p' <<<"$properties" && exit 0 ;;
    ?*) found+=("$version") ;;
  esac
}

look_everywhere() {
  local home
  look "${JAVA_HOME:-/nowhere}/bin/java"
  look java
  for home in /usr/lib/jvm/* /Library/Java/JavaVirtualMachines/*/Contents/Home /{opt/homebrew,usr/local}/opt/openjdk@*; do
    look "$home/bin/java"
  done
}

look_everywhere
seen=$(printf '%s\n' ${found[@]+"${found[@]}"} | sort -un | paste -sd ' ' -)
if "$(dirname "$0")/apt_install.sh" openjdk-17-jre-headless openjdk-21-jre-headless; then
  look_everywhere
fi

if command -v apt-get >/dev/null; then
  install="\`sudo apt-get install openjdk-17-jre-headless\`"
elif command -v dnf >/dev/null; then
  install="\`sudo dnf install java-17-openjdk-headless\`"
elif [ "$(uname)" = Darwin ]; then
  install="\`brew install openjdk@17\`"
else
  install="your package manager (on Debian \`sudo apt-get install openjdk-17-jre-headless\`)"
fi
echo "lakefactor needs Java 17 or 21 and found ${seen:+only Java }${seen:-none} (in JAVA_HOME, PATH and /usr/lib/jvm):" \
  "install one with $install and run make again." >&2
exit 1
