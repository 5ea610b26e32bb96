# `cmake --install build --prefix DIR`, and `cpack` for a .deb: the program, its Lua files, pages, examples, manual page
# and completions. medrl finds DIR/share/medrl from DIR/bin/medrl.
include(GNUInstallDirs)

# Made by the program itself, from its table of commands.
set(generated ${CMAKE_BINARY_DIR}/generated)
add_custom_command(OUTPUT ${generated}/medrl.1 ${generated}/medrl.bash ${generated}/_medrl ${generated}/medrl.fish
  DEPENDS medrl
  COMMAND ${CMAKE_COMMAND} -E make_directory ${generated}
  COMMAND medrl help --man > ${generated}/medrl.1
  COMMAND medrl completion bash > ${generated}/medrl.bash
  COMMAND medrl completion zsh > ${generated}/_medrl
  COMMAND medrl completion fish > ${generated}/medrl.fish
  COMMENT "Manual page and completions")
add_custom_target(medrl_generated ALL DEPENDS ${generated}/medrl.1)

install(TARGETS medrl RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${CMAKE_BINARY_DIR}/libmedrl_cuda.so DESTINATION ${CMAKE_INSTALL_BINDIR} OPTIONAL) # beside the program
install(DIRECTORY lua docs examples DESTINATION ${CMAKE_INSTALL_DATADIR}/medrl)
install(FILES ${generated}/medrl.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${generated}/medrl.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME medrl)
install(FILES ${generated}/_medrl DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
install(FILES ${generated}/medrl.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
install(FILES README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME medrl)
set(CPACK_PACKAGE_CONTACT "The medrl authors <medrl@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "teaches a small instruct model with GRPO, in C and Lua")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
find_program(MEDRL_SHLIBDEPS dpkg-shlibdeps)
if(MEDRL_SHLIBDEPS) # what the program is linked with, with versions
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
else()
  set(CPACK_DEBIAN_PACKAGE_DEPENDS "libc6, libluajit-5.1-2, libcjson1, libpcre2-8-0, libutf8proc2, libmd0, zlib1g, libzstd1, liblz4-1")
endif()
# What is opened by name at run time: the line editor of sessions, downloads and TLS, fast SHA-256 of large files, the certificates that
# downloads are held to.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "libedit2, libcurl4 | libcurl4t64, libssl3 | libssl3t64, ca-certificates")
include(CPack)
