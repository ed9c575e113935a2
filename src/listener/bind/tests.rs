use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn options(mode: u32) -> UnixOptions {
    UnixOptions { mode, ..UnixOptions::OWNER_ALONE }
}

fn bind(address: &Address, mode: u32) -> Result<Bound, BindError> {
    Bound::bind(&Arc::from("main"), address, &options(mode))
}

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bearerd-bind-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_taken_tcp_address_is_refused_with_advice() {
    let first = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap()), 0).unwrap();
    let taken = Address::Tcp(first.local_addr().unwrap());
    let error = bind(&taken, 0).unwrap_err();
    assert_eq!(error.address, first.local());
    assert!(error.message.starts_with("another program listens there"), "{error}");
}

#[test]
fn an_address_of_another_machine_is_reported() {
    let error = bind(&Address::Tcp("192.0.2.1:0".parse().unwrap()), 0).unwrap_err();
    assert_eq!(error.message, "this machine does not have this address");
}

#[test]
fn a_unix_socket_has_its_mode_and_goes_with_its_last_clone() {
    let folder = scratch("mode");
    let path = folder.join("s");
    for mode in [0o600, 0o660, 0o666] {
        let bound = bind(&Address::Unix(path.clone()), mode).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        assert_eq!(bound.local(), format!("unix:{}", path.display()));
        let clone = bound.try_clone().unwrap();
        drop(bound);
        assert!(UnixStream::connect(&path).is_ok());
        drop(clone);
        assert!(!path.exists());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = scratch("stale");
    let path = folder.join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let live = bind(&Address::Unix(path.clone()), 0o600).unwrap();
    let error = bind(&Address::Unix(path.clone()), 0o600).unwrap_err();
    assert!(error.message.starts_with("another program listens there"), "{error}");
    assert!(UnixStream::connect(&path).is_ok(), "the live one was left alone");
    drop(live);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_that_is_not_a_socket_is_never_removed() {
    let folder = scratch("other");
    let path = folder.join("s");
    let target = folder.join("target");
    drop(UnixListener::bind(&target).unwrap());
    symlink(&target, &path).unwrap();
    assert!(bind(&Address::Unix(path.clone()), 0o600).unwrap_err().message.starts_with("a symlink"));
    assert!(target.exists());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(bind(&Address::Unix(path.clone()), 0o600).unwrap_err().message.starts_with("a file"));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 8, "left alone");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_in_place_of_the_socket_stays() {
    let folder = scratch("replaced");
    let path = folder.join("s");
    let bound = bind(&Address::Unix(path.clone()), 0o600).unwrap();
    std::fs::rename(&path, folder.join("old")).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    drop(bound);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    drop(other);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_missing_folder_and_a_long_path_are_reported() {
    let folder = scratch("missing");
    let error = bind(&Address::Unix(folder.join("no/s")), 0o600).unwrap_err();
    assert!(error.message.ends_with("/no does not exist"), "{error}");
    let error = bind(&Address::Unix("/proc/s".into()), 0o600).unwrap_err();
    assert!(error.message.ends_with("no file can be created in the folder /proc"), "{error}");
    let error = bind(&Address::Unix(folder.join("x".repeat(120))), 0o600).unwrap_err();
    assert!(error.message.contains("too long"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn addresses_overlap_on_one_port_if_one_includes_the_other() {
    let overlaps = |one: &str, other: &str| {
        let (one, other) = (Address::Tcp(one.parse().unwrap()), Address::Tcp(other.parse().unwrap()));
        assert_eq!(overlap(&one, &other), overlap(&other, &one));
        overlap(&one, &other)
    };
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("127.0.0.1:80", "[::]:80"),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
        ("[::1]:80", "[::]:80"),
        ("0.0.0.0:80", "[::]:80"),
    ] {
        assert!(overlaps(one, other), "{one} and {other}");
    }
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("127.0.0.1:80", "0.0.0.0:81"),
        ("[::1]:80", "0.0.0.0:80"),
        ("127.0.0.1:0", "0.0.0.0:0"),
    ] {
        assert!(!overlaps(one, other), "{one} and {other}");
    }
}

#[tokio::test]
async fn a_socket_counts_as_open_until_its_last_clone_is_dropped() {
    let bound = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap()), 0).unwrap();
    let (open, clone) = (bound.open(), bound.try_clone().unwrap());
    let listening = bound.into_listening().unwrap();
    drop(clone);
    assert!(!open.is_empty());
    drop(listening);
    open.wait().await;
}

static OWNER: UnixOptions = UnixOptions::OWNER_ALONE;

fn passed(name: &str) -> (Passed, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let socket =
        PassedSocket { name: name.to_owned(), address: address.clone(), socket: Socket::Tcp(listener) };
    (Passed { sockets: vec![socket] }, address)
}

fn wanted<'a>(name: &'a str, address: &'a Address) -> Wanted<'a> {
    Wanted { name, address, unix: &OWNER }
}

#[test]
fn a_passed_socket_belongs_to_the_listener_of_its_name_and_address() {
    let (passed, address) = passed("main");
    assert_eq!(passed.unfit(&[wanted("admin", &address), wanted("main", &address)]), Unfit::default());
    let bound = passed.socket(&Arc::from("main"), &address).unwrap().unwrap();
    assert_eq!(bound.local(), display(&address));
    let any_port = Address::Tcp("127.0.0.1:0".parse().unwrap());
    assert!(passed.socket(&Arc::from("main"), &any_port).unwrap().is_some());
    assert!(passed.socket(&Arc::from("side"), &address).unwrap().is_none());
}

#[test]
fn a_name_without_a_listener_is_reported_with_the_known_names() {
    let (passed, address) = passed("bearerd.socket");
    let unfit = passed.unfit(&[wanted("main", &address), wanted("admin", &address)]);
    assert_eq!(unfit.errors, [""; 0]);
    assert!(unfit.strays[0].contains("FileDescriptorName= of the socket unit to one of main, admin"));
}

/// The config's rules for callers are about the address that it names.
#[test]
fn a_passed_socket_at_another_address_is_an_error() {
    let (passed, _) = passed("main");
    let elsewhere = Address::Tcp("127.0.0.2:0".parse().unwrap());
    let unfit = passed.unfit(&[wanted("main", &elsewhere)]);
    assert!(unfit.errors[0].contains("the config says 127.0.0.2:0"), "{unfit:?}");
    assert!(passed.socket(&Arc::from("main"), &elsewhere).unwrap().is_none());
}

#[test]
fn a_socket_file_may_not_let_in_more_than_the_config_says() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("bearerd-passed-{:016x}", fastrand::u64(..)));
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let address = Address::Unix(path.clone());
    let socket = PassedSocket {
        name: "main".to_owned(),
        address: address.clone(),
        socket: Socket::Unix(listener, None),
    };
    let passed = Passed { sockets: vec![socket] };
    let unfit = passed.unfit(&[wanted("main", &address)]);
    assert!(unfit.errors[0].contains("set SocketMode=0600"), "{unfit:?}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(passed.unfit(&[wanted("main", &address)]), Unfit::default());
    drop(passed.socket(&Arc::from("main"), &address).unwrap().unwrap());
    assert!(path.exists(), "the file is the service manager's");
    std::fs::remove_file(&path).unwrap();
}
