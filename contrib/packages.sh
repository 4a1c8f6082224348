# For the scripts beside it, which source it: rights, and the system's packages. `me` is the name of the script.

# Runs a command as root, by sudo where the caller is not root.
as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "$me: $* needs root, and there is no sudo: run it as root, then try again" >&2
        exit 1
    fi
}

# Installs packages of Debian. Those of a name that it does not know end the script.
apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Installs packages of Fedora and its kin.
dnf_install() {
    as_root dnf install -y -q "$@" >&2
}
