# Stands in for `docker compose` where it is not installed: what Harbor asks of it for one prebuilt image, by plain docker. It does
# less than the real one, and costs less.
import json, os, subprocess, sys

VALUES = ("-w", "--workdir", "-e", "--env", "-u", "--user")


def docker(*argv, **how):
    return subprocess.run(["docker", *map(str, argv)], **how).returncode


def service(files):
    """The service `main`, merged from Harbor's own files."""
    import yaml

    merged = {}
    for file in files:
        with open(file) as text:
            text = os.path.expandvars(text.read())
        for key, value in ((yaml.safe_load(text) or {}).get("services") or {}).get("main", {}).items():
            old = merged.get(key)
            merged[key] = old + value if isinstance(old, list) and key != "command" else {**old, **value} if isinstance(old, dict) else value
    return merged


def up(project, files):
    main = service(files)
    argv = ["run", "--detach", "--name", f"{project}-main-1"]
    for volume in main.get("volumes", []):
        argv += ["--volume", volume if isinstance(volume, str) else f"{volume['source']}:{volume['target']}" + (":ro" if volume.get("read_only") else "")]
    environment = main.get("environment", {})
    for pair in environment if isinstance(environment, list) else [f"{key}={value}" for key, value in environment.items()]:
        argv += ["--env", pair]
    limits = main.get("deploy", {}).get("resources", {}).get("limits", {})
    argv += ["--cpus", limits["cpus"]] * ("cpus" in limits) + ["--memory", limits["memory"]] * ("memory" in limits)
    if main.get("network_mode"):
        argv += ["--network", main["network_mode"]]
    return docker(*argv, main["image"], *main["command"], stdout=subprocess.DEVNULL)


def execute(project, rest):
    options = []
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        options += [option, rest.pop(0)] if option in VALUES else [] if option in ("-T", "--no-TTY") else [option]
    rest.pop(0)
    os.execvp("docker", ["docker", "exec", "--interactive", *options, f"{project}-main-1", *rest])


def main(argv):
    if argv[:1] == ["docker-cli-plugin-metadata"]:
        print(json.dumps({"SchemaVersion": "0.1.0", "Vendor": "sweroll", "Version": "2.0", "ShortDescription": "stand-in"}))
        return 0
    argv, files, project = argv[argv[:1] == ["compose"]:], [], ""
    while argv and argv[0].startswith("-"):
        option = argv.pop(0)
        value = argv.pop(0)
        files += [value] * (option == "-f")
        project = value if option == "--project-name" else project
    command, rest = argv[0], argv[1:]
    if command == "version":
        print("Docker Compose version v2.0 (stand-in)")
        return 0
    if command == "up":
        return up(project, files)
    if command == "exec":
        execute(project, rest)
    if command == "cp":
        return docker("cp", *[path.replace("main:", f"{project}-main-1:", 1) if path.startswith("main:") else path for path in rest])
    if command in ("down", "stop"):
        docker("rm", "--force", "--volumes", f"{project}-main-1", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return 0
    print(f"the stand-in does not know {command}", file=sys.stderr)
    return 1


sys.exit(main(sys.argv[1:]))
